"""The dialects: JSON in, a request out; events in, JSON out. No decision about scheduling."""
