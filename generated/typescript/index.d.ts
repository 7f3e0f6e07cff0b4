// Made by generated/generate.py.
export * from "./jobstate/v1/dispatch_service_pb.js";
export * from "./jobstate/v1/error_reason_pb.js";
export * from "./jobstate/v1/event_pb.js";
export * from "./jobstate/v1/job_pb.js";
export * from "./jobstate/v1/job_service_pb.js";
export * from "./jobstate/v1/maintenance_service_pb.js";
