"""What the tests on a cluster share: namespaces, pods, a hub inside it."""
