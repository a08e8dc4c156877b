//! What the socket and gRPC alone cost: a server that answers Decrypt with the first bytes of what it got; or,
//! given an endpoint, with what KMS answers, as the shortest possible plugin would.
//!
//! `kms-echo PATH [ENDPOINT]` serves on that path until it is killed. The baseline of `tests/kms-figures`.

mod sdk;

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_kms::primitives::Blob;
use coffer_kms::proto::{v1beta1, v2};
use coffer_unix_grpc::{Access, Address, Inherited, Socket, serve};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The length of a DEK.
const PLAINTEXT: usize = 32;

// As the plugin has it.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: kms-echo PATH [ENDPOINT]")?;
    let echo = Echo { kms: std::env::args().nth(2).as_deref().map(sdk::client) };
    let address: Address = path.parse()?;
    let socket = Socket::open(&address, &Access::default(), &mut Inherited::default())?;
    let mut routes = Routes::builder();
    routes
        .add_service(v1beta1::key_management_service_server::KeyManagementServiceServer::new(echo.clone()))
        .add_service(v2::key_management_service_server::KeyManagementServiceServer::new(echo));
    Ok(serve(socket, routes.routes(), std::future::pending(), Duration::ZERO).await?)
}

#[derive(Clone)]
struct Echo {
    kms: Option<aws_sdk_kms::Client>,
}

impl Echo {
    /// Of a ciphertext with the AWS Encryption Provider's prefix.
    async fn plaintext(&self, mut ciphertext: Vec<u8>) -> Result<Vec<u8>, Status> {
        let Some(kms) = &self.kms else {
            ciphertext.truncate(PLAINTEXT);
            return Ok(ciphertext);
        };
        let blob = Blob::new(ciphertext.split_off(1.min(ciphertext.len())));
        let answer = kms.decrypt().ciphertext_blob(blob).send().await;
        let plaintext = answer.map_err(|error| Status::unknown(error.to_string()))?.plaintext;
        Ok(plaintext.unwrap_or(Blob::new([])).into_inner())
    }
}

#[tonic::async_trait]
impl v1beta1::key_management_service_server::KeyManagementService for Echo {
    async fn version(&self, _: Request<v1beta1::VersionRequest>) -> Result<Response<v1beta1::VersionResponse>, Status> {
        let version = "v1beta1".to_owned();
        Ok(Response::new(v1beta1::VersionResponse { version, ..Default::default() }))
    }

    async fn decrypt(
        &self,
        request: Request<v1beta1::DecryptRequest>,
    ) -> Result<Response<v1beta1::DecryptResponse>, Status> {
        Ok(Response::new(v1beta1::DecryptResponse { plain: self.plaintext(request.into_inner().cipher).await? }))
    }

    async fn encrypt(
        &self,
        request: Request<v1beta1::EncryptRequest>,
    ) -> Result<Response<v1beta1::EncryptResponse>, Status> {
        Ok(Response::new(v1beta1::EncryptResponse { cipher: request.into_inner().plain }))
    }
}

#[tonic::async_trait]
impl v2::key_management_service_server::KeyManagementService for Echo {
    async fn status(&self, _: Request<v2::StatusRequest>) -> Result<Response<v2::StatusResponse>, Status> {
        Ok(Response::new(v2::StatusResponse::default()))
    }

    async fn decrypt(&self, request: Request<v2::DecryptRequest>) -> Result<Response<v2::DecryptResponse>, Status> {
        Ok(Response::new(v2::DecryptResponse { plaintext: self.plaintext(request.into_inner().ciphertext).await? }))
    }

    async fn encrypt(&self, request: Request<v2::EncryptRequest>) -> Result<Response<v2::EncryptResponse>, Status> {
        let ciphertext = request.into_inner().plaintext;
        Ok(Response::new(v2::EncryptResponse { ciphertext, ..Default::default() }))
    }
}
