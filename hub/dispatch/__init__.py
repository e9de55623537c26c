"""When and where a request runs."""
