"""Whole servers, called over gRPC."""
