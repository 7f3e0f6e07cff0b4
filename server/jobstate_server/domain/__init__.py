"""What a job is and how it may change. Pure: no I/O, no gRPC, no protobuf, no database."""
