//! As whom to ask AWS: one set of credentials for each identity.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use coffer_runtime::aws::{Aws, CallObserver, Credentials, RoleStep};

/// A base identity, as the process's environment or a pod's token gives it, and the roles assumed
/// from it.
///
/// Credentials of one identity are fetched once, whatever the number of volumes and regions that
/// use them.
pub struct Identities {
    aws: Aws,
    /// Where STS is asked first: one set of credentials serves every region.
    region: String,
    session_name: String,
    base: Credentials,
    roles: Mutex<HashMap<RoleStep, Credentials>>,
}

impl Identities {
    /// The identity of the process. Nothing is fetched until the first call.
    #[must_use]
    pub fn new(aws: Aws, region: &str, session_name: String, calls: Arc<dyn CallObserver>) -> Self {
        Self::over(Credentials::ambient(&aws, region, calls), aws, region, session_name)
    }

    /// An identity that has its own credentials, and the roles assumed from it.
    #[must_use]
    pub fn over(base: Credentials, aws: Aws, region: &str, session_name: String) -> Self {
        Self { aws, region: region.to_owned(), session_name, base, roles: Mutex::default() }
    }

    /// The credentials of the base identity itself, or of a role that it assumes.
    #[must_use]
    pub fn credentials(&self, role: Option<&RoleStep>) -> Credentials {
        let Some(role) = role else { return self.base.clone() };
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let assume = || self.base.assume(&self.aws, &self.region, role.clone(), &self.session_name);
        roles.entry(role.clone()).or_insert_with(assume).clone()
    }

    /// Each identity in use, and when its present credentials end.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, Option<SystemTime>)> {
        let roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(&self.base).chain(roles.values());
        all.map(|credentials| (credentials.label().to_owned(), credentials.expiry())).collect()
    }
}
