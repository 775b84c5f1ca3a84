//! Waits for signals that stop a command.

/// Waits for Ctrl-C, and on Unix also for SIGTERM (a CI job is cancelled) and SIGHUP (a
/// terminal is closed).
pub async fn stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::SignalKind;
        tokio::select! {
            () = signalled(SignalKind::interrupt()) => {}
            () = signalled(SignalKind::terminate()) => {}
            () = hung_up() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(unix)]
async fn signalled(kind: tokio::signal::unix::SignalKind) {
    match tokio::signal::unix::signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Waits for SIGHUP, unless it is ignored: nohup does that so that the command outlives the
/// terminal, and a handler would undo it.
#[cfg(unix)]
async fn hung_up() {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) if ignores_hangup(&status) => std::future::pending().await,
        _ => signalled(tokio::signal::unix::SignalKind::hangup()).await,
    }
}

/// Returns whether SIGHUP is ignored. The lowest bit of the mask is signal 1 (proc(5),
/// "SigIgn").
#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(all(test, unix))]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn nohup_is_detected() {
        let status = |mask| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("Name:\tx\n"));
    }
}
