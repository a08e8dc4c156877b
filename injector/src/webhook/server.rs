//! HTTPS for the API server, over a certificate that may change while it serves.
