//! Collects the faults of one object. Each names the field by its path in the document and says what to do.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::command::Violation;
use crate::limits;
use crate::object::is_name;
use crate::service::Timeouts;
use crate::url;

/// The faults found in one object so far.
pub(crate) struct Check {
    /// Path of the object.
    at: String,
    found: Vec<Violation>,
}

// === impl Check ===

impl Check {
    pub(crate) const fn of(at: String) -> Self {
        Self {
            at,
            found: Vec::new(),
        }
    }

    pub(crate) fn done(self) -> Vec<Violation> {
        self.found
    }

    pub(crate) fn fault(&mut self, field: impl AsRef<str>, problem: impl Into<String>) {
        let path = format!("{}.{}", self.at, field.as_ref());
        self.found.push(Violation {
            path,
            problem: problem.into(),
        });
    }

    pub(crate) fn name(&mut self, field: impl AsRef<str>, name: &str) {
        if !is_name(name) {
            let problem = format!(
                "`{}` is not a name: use 1 to {} of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit",
                shorten(name),
                limits::NAME,
            );
            self.fault(field, problem);
        }
    }

    /// Whether there are at least `min` and at most `max` of something.
    pub(crate) fn count(&mut self, field: &str, count: usize, min: usize, max: usize) {
        if count < min {
            self.fault(field, format!("at least {min} must be given"));
        } else if count > max {
            self.fault(
                field,
                format!("there are {count}, and at most {max} are allowed"),
            );
        }
    }

    pub(crate) fn timeouts(&mut self, timeouts: &Timeouts) {
        let fields = [
            ("timeouts.connect", timeouts.connect_ms),
            ("timeouts.first_byte", timeouts.first_byte_ms),
            ("timeouts.idle", timeouts.idle_ms),
            ("timeouts.total", timeouts.total_ms),
        ];
        for (field, value) in fields {
            if value.is_some_and(|ms| ms == 0 || ms > limits::TIMEOUT_MS) {
                self.fault(
                    field,
                    "a timeout must be from 1ms to 1h; leave it out for the default",
                );
            }
        }
    }

    /// Names of hosts in the field `hosts`, each once.
    pub(crate) fn hosts(&mut self, hosts: &[Arc<str>], max: usize) {
        self.count("hosts", hosts.len(), 0, max);
        let hosts = &hosts[..hosts.len().min(max)];
        self.distinct("hosts", hosts);
        for (at, host) in hosts.iter().enumerate() {
            if !url::is_dns_name(host) && host.parse::<Ipv4Addr>().is_err() {
                let problem = format!(
                    "`{}` is not a host: use a DNS name in lower case or an IPv4 address, without port or `*`",
                    shorten(host)
                );
                self.fault(format!("hosts[{at}]"), problem);
            }
        }
    }

    /// Says which of a list repeat one before.
    pub(crate) fn distinct<T: PartialEq>(&mut self, field: &str, list: &[T]) {
        for (at, item) in list.iter().enumerate() {
            if list[..at].contains(item) {
                self.fault(format!("{field}[{at}]"), "it is listed twice; remove one");
            }
        }
    }
}

/// What a message may quote of a text of any length.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}
