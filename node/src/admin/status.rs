//! Errors as gRPC statuses: a code for scripts, a sentence for people, and the fields at fault as `google.rpc` details.
//!
//! A status travels in headers, and clients refuse heads beyond 8 KiB: what does not fit is counted.

use std::collections::HashMap;

use mode_envoy_model::command::{Rejected, RejectedCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::control::ControlError;
use crate::control::document::Faults;

/// The `domain` of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "mode-envoy";

const MAX_MESSAGE: usize = 800;
const MAX_DETAILS: usize = 3_000;

/// The status of an error.
pub(super) fn to_status(error: &ControlError) -> Status {
    match error {
        ControlError::Rejected(rejected) => of_rejected(rejected),
        ControlError::Document(faults) => status(
            Code::InvalidArgument,
            "DOCUMENT",
            error.to_string(),
            of_faults(faults),
        ),
        ControlError::Unauthenticated => plain(Code::Unauthenticated, "UNAUTHENTICATED", error),
        ControlError::Unavailable(_) => plain(Code::Unavailable, "UNAVAILABLE", error),
        ControlError::OutcomeUnknown => plain(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", error),
        ControlError::Keyring(_) => plain(Code::FailedPrecondition, "KEYRING", error),
        ControlError::Random(_) | ControlError::Internal(_) => {
            plain(Code::Internal, "INTERNAL", error)
        }
    }
}

fn of_rejected(rejected: &Rejected) -> Status {
    let (code, reason) = match rejected.code {
        RejectedCode::Invalid => (Code::InvalidArgument, "INVALID"),
        RejectedCode::NotFound => (Code::NotFound, "NOT_FOUND"),
        RejectedCode::Exists => (Code::AlreadyExists, "EXISTS"),
        RejectedCode::InUse => (Code::FailedPrecondition, "IN_USE"),
        RejectedCode::Limit => (Code::ResourceExhausted, "LIMIT"),
        RejectedCode::Forbidden => (Code::PermissionDenied, "FORBIDDEN"),
        RejectedCode::Conflict => (Code::Aborted, "CONFLICT"),
    };
    let violations = rejected
        .violations
        .iter()
        .map(|v| FieldViolation::new(v.path.clone(), v.problem.clone()));
    status(code, reason, rejected.to_string(), violations.collect())
}

fn of_faults(faults: &Faults) -> Vec<FieldViolation> {
    let one = |fault: &crate::control::document::Fault| {
        let field = if fault.path.is_empty() {
            "document"
        } else {
            &fault.path
        };
        let at = fault.at;
        let problem = format!("line {}, column {}: {}", at.line, at.column, fault.problem);
        FieldViolation::new(field, problem)
    };
    faults.list.iter().map(one).collect()
}

fn plain(code: Code, reason: &str, error: &ControlError) -> Status {
    status(code, reason, error.to_string(), Vec::new())
}

fn status(code: Code, reason: &str, message: String, violations: Vec<FieldViolation>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
    if !violations.is_empty() {
        details.set_bad_request(fitting(violations));
    }
    Status::with_error_details(code, shortened(message), details)
}

fn fitting(violations: Vec<FieldViolation>) -> Vec<FieldViolation> {
    let total = violations.len();
    let mut room = MAX_DETAILS;
    let mut kept = Vec::new();
    for violation in violations {
        let size = violation.field.len() + violation.description.len() + 8;
        if size > room {
            break;
        }
        room -= size;
        kept.push(violation);
    }
    if kept.len() < total {
        let more = format!("and {} more; mend these first", total - kept.len());
        kept.push(FieldViolation::new("…", more));
    }
    kept
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::command::Violation;

    use super::*;

    fn rejected(code: RejectedCode, count: usize) -> ControlError {
        let violation = |i| Violation {
            path: format!("routes[acme/orders-{i}].service"),
            problem: "there is no service orders; define it, or correct the name".to_owned(),
        };
        ControlError::Rejected(Rejected {
            code,
            violations: (0..count).map(violation).collect(),
        })
    }

    #[test]
    fn each_refusal_has_a_code_of_its_own() {
        let codes = [
            (RejectedCode::Invalid, Code::InvalidArgument),
            (RejectedCode::NotFound, Code::NotFound),
            (RejectedCode::Exists, Code::AlreadyExists),
            (RejectedCode::InUse, Code::FailedPrecondition),
            (RejectedCode::Limit, Code::ResourceExhausted),
            (RejectedCode::Forbidden, Code::PermissionDenied),
            (RejectedCode::Conflict, Code::Aborted),
        ];
        for (code, expected) in codes {
            assert_eq!(to_status(&rejected(code, 1)).code(), expected);
        }
        assert_eq!(
            to_status(&ControlError::OutcomeUnknown).code(),
            Code::DeadlineExceeded
        );
        assert_eq!(
            to_status(&ControlError::Unauthenticated).code(),
            Code::Unauthenticated
        );
    }

    #[test]
    fn the_fields_at_fault_are_details() {
        let details = to_status(&rejected(RejectedCode::Invalid, 2)).get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[1].field, "routes[acme/orders-1].service");
        assert_eq!(details.error_info().unwrap().reason, "INVALID");
        assert_eq!(details.error_info().unwrap().domain, ERROR_DOMAIN);
    }

    #[test]
    fn a_status_fits_into_a_head_whatever_is_wrong() {
        let status = to_status(&rejected(RejectedCode::Invalid, 100));
        assert!(status.details().len() * 4 / 3 + status.message().len() < 7_000);
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        let counted = format!("and {} more; mend these first", 100 - (fields.len() - 1));
        assert_eq!(fields.last().unwrap().description, counted);
    }

    #[test]
    fn a_document_that_cannot_be_read_is_refused_with_lines() {
        let faults = crate::control::document::read("modles: []\n").unwrap_err();
        let details = to_status(&ControlError::Document(faults)).get_error_details();
        let field = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(field.field, "modles");
        assert!(
            field.description.starts_with("line 1, column 1: "),
            "{}",
            field.description
        );
    }
}
