"""The gRPC services: validate, convert, call, convert."""
