//! Connections over TCP to a server that only has a unix socket, and what the kernel knows of them.

use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Passes all on to a server's socket. Its threads end with the connections, and the last with the process.
#[derive(Debug)]
pub struct Relay {
    /// The port on 127.0.0.1.
    pub port: u16,
}

impl Relay {
    /// One for the server, or pooler, whose socket is in `folder`.
    pub fn start(folder: &Path) -> io::Result<Self> {
        let socket = folder.join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Else it is closed.
                if let Ok(server) = UnixStream::connect(&socket) {
                    let _ = join(&client, &server);
                }
            }
        });
        Ok(Self { port })
    }

    /// When the kernel will look whether this end of a client's connection is still there, if nothing comes: one of the
    /// timers in `/proc/net/tcp`, as proc(5) has it. None while there is no such client.
    pub fn keepalive(&self) -> Option<Duration> {
        let this_end = format!("0100007F:{:04X}", self.port);
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (established, keepalive) = ("01", "02:");
        let row = rows.find(|row| row[2] == this_end && row[3] == established)?;
        let hundredths = u64::from_str_radix(row[5].strip_prefix(keepalive)?, 16).ok()?;
        Some(Duration::from_millis(hundredths * 10))
    }
}

/// Two threads that copy, one for each direction.
fn join(client: &TcpStream, server: &UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.flush();
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}
