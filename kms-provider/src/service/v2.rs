//! KMS API v2.

use std::collections::HashMap;
use std::sync::Arc;

use coffer_runtime::Secret;
use tonic::{Request, Response, Status};

use super::{Door, caller};
use crate::audit::Purpose;
use crate::deadline::deadline;
use crate::metrics::ApiVersion;
use crate::proto::v2::key_management_service_server::KeyManagementService;
use crate::proto::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

pub(super) struct Service(pub(super) Arc<Door>);

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (healthz, key_id) = self.0.state().map_err(|trouble| Status::from(&trouble))?;
        Ok(Response::new(StatusResponse { version: self.0.status.version.to_owned(), healthz, key_id }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let deadline = deadline(request.metadata());
        let request = request.into_inner();
        let plaintext = Secret::new(request.plaintext);
        let caller = caller(Purpose::V2, &request.uid);
        match self.0.encrypt(&plaintext, ApiVersion::V2, &caller, deadline).await {
            Ok((ciphertext, key_id)) => {
                Ok(Response::new(EncryptResponse { ciphertext, key_id, annotations: HashMap::new() }))
            }
            Err(trouble) => Err((&trouble).into()),
        }
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let deadline = deadline(request.metadata());
        let request = request.into_inner();
        let caller = caller(Purpose::V2, &request.uid);
        let opened = self.0.decrypt(&request.ciphertext, Some(&request.key_id), ApiVersion::V2, &caller, deadline);
        match opened.await {
            Ok(plaintext) => Ok(Response::new(DecryptResponse { plaintext: plaintext.expose().to_vec() })),
            Err(trouble) => Err((&trouble).into()),
        }
    }
}
