//! KMS API v1beta1.

use std::sync::Arc;

use coffer_runtime::{Secret, VERSION};
use tonic::{Request, Response, Status};

use super::{Door, caller};
use crate::audit::Purpose;
use crate::deadline::deadline;
use crate::metrics::ApiVersion;
use crate::proto::v1beta1::key_management_service_server::KeyManagementService;
use crate::proto::v1beta1::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, VersionRequest, VersionResponse,
};

/// The only version that an API server takes (k8s.io/apiserver, `envelope/grpc_service.go`).
const API: &str = "v1beta1";
/// As the AWS Encryption Provider calls itself (its `pkg/version/version.go`).
const RUNTIME: &str = "AWSKMS";

pub(super) struct Service(pub(super) Arc<Door>);

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: API.to_owned(),
            runtime_name: RUNTIME.to_owned(),
            runtime_version: VERSION.to_owned(),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let deadline = deadline(request.metadata());
        let request = request.into_inner();
        let plaintext = Secret::new(request.plain);
        let caller = caller(Purpose::V1, "");
        match self.0.encrypt(&plaintext, ApiVersion::V1, &caller, deadline).await {
            Ok((cipher, _)) => Ok(Response::new(EncryptResponse { cipher })),
            Err(trouble) => Err((&trouble).into()),
        }
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let deadline = deadline(request.metadata());
        let request = request.into_inner();
        let caller = caller(Purpose::V1, "");
        match self.0.decrypt(&request.cipher, None, ApiVersion::V1, &caller, deadline).await {
            Ok(plaintext) => Ok(Response::new(DecryptResponse { plain: plaintext.expose().to_vec() })),
            Err(trouble) => Err((&trouble).into()),
        }
    }
}
