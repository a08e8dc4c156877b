//! A real Kubernetes API server, and what is behind it.

mod plain;
