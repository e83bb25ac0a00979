//! Attachments come and go under load. `cargo xtask churn` runs the same for as long as one likes.

use std::time::Duration;

use anyhow::Result;
use pcpm_tests::Churn;

const SPAN: Duration = Duration::from_secs(10);

/// What is to come and go before it is over; a loaded machine takes longer for as much.
fn is_enough(churn: &Churn) -> bool {
    let mut counts = churn.datagrams.iter().chain(&churn.connections);
    churn.attachments >= 400 && counts.all(|count| *count >= 50)
}

#[test]
fn no_payload_reaches_another_attachment_while_they_come_and_go() -> Result<()> {
    let churn = pcpm_tests::churn(SPAN, is_enough)?;
    println!("{churn:#?}");
    assert_eq!(churn.violations, 0, "{:#?}", churn.told);
    assert!(is_enough(&churn), "{churn:?}");
    Ok(())
}
