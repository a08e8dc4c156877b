//! The Kubernetes API, as far as a node needs it: a handful of objects, by name.
