//! A client that greets a server once a second, each time over a new connection:
//! `example-client ADDRESS SERVER_ID [COUNT]`.

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_client};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let (address, server, count) = match arguments.as_slice() {
        [_, address, server] => (address, server, u32::MAX),
        [_, address, server, count] => (address, server, count.parse()?),
        _ => return Err("usage: example-client ADDRESS SERVER_ID [COUNT]".into()),
    };

    // The source holds the newest SVID and bundle from $SPIFFE_ENDPOINT_SOCKET; the configuration
    // asks it at every handshake.
    let source = X509Source::new().await?;
    let config = mtls_client(source)
        .authorize(authorizer::exact([server.as_str()])?)
        .build()?;
    let connector = TlsConnector::from(Arc::new(config));

    for _ in 0..count {
        print!("{}", greet(&connector, address).await?);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn greet(connector: &TlsConnector, address: &str) -> Result<String, Box<dyn Error>> {
    let tcp = TcpStream::connect(address).await?;
    // TLS wants a name; who the server is, its SPIFFE ID tells.
    let mut tls = connector
        .connect(ServerName::try_from("localhost")?, tcp)
        .await?;
    let mut greeting = String::new();
    tls.read_to_string(&mut greeting).await?;
    Ok(greeting)
}
