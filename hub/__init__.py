"""hub: many chat sessions over few connections, in front of any OpenAI-compatible model server."""

__version__ = "0.1.0"
