//! gRPC servers on unix sockets that Kubernetes' own Go clients can talk to.
