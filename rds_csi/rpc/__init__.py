"""The gRPC edge: the unix-socket server, its interceptor chain, and errors as status codes."""
