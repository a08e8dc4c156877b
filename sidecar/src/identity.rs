//! As whom to ask AWS: one set of credentials for each identity of the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use coffer_runtime::aws::{Aws, CallObserver, Credentials, RoleStep};

/// The identities of the process: the one its environment gives, and the roles assumed from it.
///
/// Credentials of one identity are fetched once, whatever the number of volumes and regions that
/// use them.
pub struct Identities {
    aws: Aws,
    /// Where STS is asked: the process's region, for one set of credentials serves every region.
    region: String,
    session_name: String,
    process: Credentials,
    roles: Mutex<HashMap<RoleStep, Credentials>>,
}

impl Identities {
    /// Nothing is fetched until the first call.
    #[must_use]
    pub fn new(aws: Aws, region: &str, session_name: String, calls: Arc<dyn CallObserver>) -> Self {
        let process = Credentials::ambient(&aws, region, calls);
        Self { aws, region: region.to_owned(), session_name, process, roles: Mutex::default() }
    }

    /// The credentials of the process itself, or of a role that it assumes.
    #[must_use]
    pub fn credentials(&self, role: Option<&RoleStep>) -> Credentials {
        let Some(role) = role else { return self.process.clone() };
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let assume = || self.process.assume(&self.aws, &self.region, role.clone(), &self.session_name);
        roles.entry(role.clone()).or_insert_with(assume).clone()
    }

    /// Each identity in use, and when its present credentials end.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, Option<SystemTime>)> {
        let roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(&self.process).chain(roles.values());
        all.map(|credentials| (credentials.label().to_owned(), credentials.expiry())).collect()
    }
}
