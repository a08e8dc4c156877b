//! The SecretProviderClass of AWS's provider, turned into files of the sidecar's spec.
