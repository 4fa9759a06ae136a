"""What the tests share: servers, tiny models, damaged files, and programs that are killed."""
