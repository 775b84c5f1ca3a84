//! The private socket admits no other user of the same machine.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use antifreeze::{Config, Database};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::common::{BoxError, PLENTY, lab};
use crate::{connect, value};

/// `nobody` where there is one; a number is enough.
const STRANGER: u32 = 65534;

/// Returns the directory of the socket.
fn directory(url: &str) -> PathBuf {
    let host = url
        .split('@')
        .nth(1)
        .and_then(|rest| rest.split(':').next());
    PathBuf::from(host.expect("a host").replace("%2F", "/"))
}

fn open(path: &Path, mode: u32) {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("it is ours");
}

/// Asks with psql, as another user if one is given. The error is what psql has said.
async fn ask(url: &str, user: Option<u32>) -> Result<String, String> {
    let mut psql = Command::new("psql");
    psql.args([url, "-X", "-A", "-t", "-c", "select 1 + 1"])
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(user) = user {
        psql.uid(user).gid(user);
    }
    let output = tokio::time::timeout(PLENTY, psql.output()).await;
    let output = output.expect("in time").expect("psql is installed");
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[tokio::test]
async fn process_of_another_user_is_refused() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let directory = directory(&url);
    let owner = std::fs::metadata(&directory).expect("a directory").uid();
    lab.run(async {
        assert_eq!(ask(&url, None).await.as_deref(), Ok("2"));
        if owner != 0 {
            eprintln!("not tried as another user: only root can be one");
            return Ok(());
        }
        let refused = ask(&url, Some(STRANGER)).await.expect_err("another user");
        assert!(refused.contains("Permission denied"), "{refused}");
        // A process that gets that far is refused by its credentials.
        open(&directory, 0o755);
        open(&directory.join(".s.PGSQL.5432"), 0o777);
        let refused = ask(&url, Some(STRANGER)).await.expect_err("another user");
        let closed = "server closed the connection unexpectedly";
        assert!(refused.contains(closed), "{refused}");
        assert_eq!(ask(&url, None).await.as_deref(), Ok("2"), "still there");
        Ok(())
    })
    .await
    .expect("it returns");
    lab.assert_at_rest().await;
}

/// In a process of its own, which cannot make a directory.
#[tokio::test]
async fn loopback_is_guarded_by_a_password() {
    let lab = lab().await;
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("strangers::loopback_in_a_process_of_its_own")
        .env("TMPDIR", "/nowhere")
        .env("SERVER_URL", &lab.server.url)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PLENTY, output).await.expect("in time");
    let output = output.expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let passed = output.status.success() && text.contains("1 passed");
    assert!(passed, "{text}");
}

#[tokio::test]
#[ignore = "it is started by another test"]
async fn loopback_in_a_process_of_its_own() {
    let server = std::env::var("SERVER_URL").expect("a URL");
    let config = Config::from_url(&server).expect("a URL");
    let database = Database::new(config).expect("a database");
    let url = database.url().expect("a socket");
    let (user, rest) = url.split_once("@127.0.0.1:").expect("on the loopback");
    let (user, password) = user.rsplit_once(':').expect("a password");
    assert_eq!(password.len(), 32);
    let address = format!("127.0.0.1:{}", &rest[..rest.find('/').expect("a path")]);
    let work = async {
        assert_eq!(value(&connect(&url).await?, "select 1").await?, "1");
        // Not even an empty password.
        let mut without = tokio::net::TcpStream::connect(address).await?;
        let body = "user\0antifreeze\0\0";
        let length = (8 + body.len()) as u32;
        let startup = [&length.to_be_bytes()[..], b"\0\x03\0\0", body.as_bytes()];
        without.write_all(&startup.concat()).await?;
        without.write_all(b"p\0\0\0\x04").await?;
        let mut answer = Vec::new();
        without.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("C08003"), "{answer}");
        let longer = format!("{password}0");
        let wrong = ["x", &password[1..], &longer, &"0".repeat(32)];
        for wrong in wrong {
            let refused = connect(&format!("{user}:{wrong}@127.0.0.1:{rest}")).await;
            let refused = refused.err().and_then(|error| error.code().cloned());
            let code = refused.as_ref().map(|code| code.code());
            assert_eq!(code, Some("08003"), "{wrong}");
        }
        assert!(connect(&format!("{user}@127.0.0.1:{rest}")).await.is_err());
        assert_eq!(value(&connect(&url).await?, "select 1").await?, "1");
        Ok(())
    };
    let done = database.invocation::<_, BoxError>(PLENTY, work).await;
    done.expect("the right password is admitted");
}
