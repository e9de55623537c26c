"""Where responses are kept: memory or SQLite, behind one interface."""
