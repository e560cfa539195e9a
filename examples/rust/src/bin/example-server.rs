//! A server that waits for one known client, and greets it: `example-server ADDRESS CLIENT_ID`.

use std::env;
use std::error::Error;
use std::sync::Arc;

use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_server};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, address, client] = arguments.as_slice() else {
        return Err("usage: example-server ADDRESS CLIENT_ID".into());
    };

    // The source holds the newest SVID and bundle from $SPIFFE_ENDPOINT_SOCKET; the configuration
    // asks it at every handshake.
    let source = X509Source::new().await?;
    let config = mtls_server(source)
        .authorize(authorizer::exact([client.as_str()])?)
        .build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);

    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, client) = (acceptor.clone(), client.clone());
        tokio::spawn(async move {
            if let Err(error) = greet(&acceptor, tcp, &client).await {
                eprintln!("refused: {error}");
            }
        });
    }
}

async fn greet(acceptor: &TlsAcceptor, tcp: TcpStream, client: &str) -> std::io::Result<()> {
    // Nobody but the client gets past this line.
    let mut tls = acceptor.accept(tcp).await?;
    tls.write_all(format!("Hello, {client}\n").as_bytes())
        .await?;
    tls.shutdown().await
}
