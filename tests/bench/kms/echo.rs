//! What the socket and gRPC alone cost: a server that answers Decrypt with the first bytes of what it got.
//!
//! `kms-echo PATH` serves on that path until it is killed. The baseline of `tests/kms-figures`.

use std::time::Duration;

use anyhow::{Context, Result};
use coffer_kms::proto::{v1beta1, v2};
use coffer_unix_grpc::{Access, Address, Inherited, Socket, serve};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The length of a DEK.
const PLAINTEXT: usize = 32;

// As the plugin has it.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: kms-echo PATH")?;
    let address: Address = path.parse()?;
    let socket = Socket::open(&address, &Access::default(), &mut Inherited::default())?;
    let mut routes = Routes::builder();
    routes
        .add_service(v1beta1::key_management_service_server::KeyManagementServiceServer::new(Echo))
        .add_service(v2::key_management_service_server::KeyManagementServiceServer::new(Echo));
    Ok(serve(socket, routes.routes(), std::future::pending(), Duration::ZERO).await?)
}

struct Echo;

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
        Ok(Response::new(v1beta1::DecryptResponse { plain: first_bytes(request.into_inner().cipher) }))
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
        Ok(Response::new(v2::DecryptResponse { plaintext: first_bytes(request.into_inner().ciphertext) }))
    }

    async fn encrypt(&self, request: Request<v2::EncryptRequest>) -> Result<Response<v2::EncryptResponse>, Status> {
        let ciphertext = request.into_inner().plaintext;
        Ok(Response::new(v2::EncryptResponse { ciphertext, ..Default::default() }))
    }
}

fn first_bytes(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(PLAINTEXT);
    bytes
}
