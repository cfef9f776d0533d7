//! Waiting for a value: the one place where tests look again until they see it or a deadline passes.
//!
//! A wait names what it waits for, and its failure tells what was seen last: so a test that fails says why.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is a value; an error of `look` means "not yet", and the last one is told at the deadline.
///
/// # Errors
///
/// The deadline passed.
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut last = "it was not seen even once".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = format!("{error:#}"),
            // The look itself hangs; what was seen before it is the better news.
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            bail!(
                "waited {} ms for {what}; seen last: {last}",
                within.as_millis()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_value() {
        let mut looks = 0;
        let seen = until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            ensure!(looks == 3, "look {looks}");
            Ok(looks)
        });
        assert_eq!(seen.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_wait_that_fails_tells_what_was_seen_last() {
        let within = Duration::from_millis(60);
        let failed = until("rain", within, async || -> Result<()> { bail!("sun") }).await;
        assert_eq!(
            failed.unwrap_err().to_string(),
            "waited 60 ms for rain; seen last: sun"
        );
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_cut_at_the_deadline() {
        let within = Duration::from_millis(30);
        let failed = until("an end", within, std::future::pending::<Result<()>>);
        assert!(
            failed
                .await
                .unwrap_err()
                .to_string()
                .contains("not seen even once")
        );
    }
}
