"""What tests share: servers, tiny models, damaged files, and processes that are killed."""
