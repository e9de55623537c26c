"""Measuring hub, and servers like it: a load generator and a token source."""
