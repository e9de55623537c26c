"""The sockets: routes, HTTP, Server-Sent Events, WebSocket lanes."""
