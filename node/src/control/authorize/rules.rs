//! What each method of the API is: a change of it begins here.

use super::Action;

/// Every method of `modeenvoy.admin.v1`, as `Service/Method`, in alphabetical order.
pub(super) const RULES: &[(&str, Action)] = &[
    ("Audit/ListChanges", Action::Read),
    ("Audit/ListHeads", Action::ReadCluster),
    ("Audit/ReadRecords", Action::ReadCluster),
    ("Calls/Explain", Action::Read),
    ("Calls/FollowCalls", Action::Read),
    ("Calls/QueryCalls", Action::Read),
    ("Cluster/AddNode", Action::Members),
    ("Cluster/Backup", Action::Backup),
    ("Cluster/RemoveNode", Action::Members),
    ("Cluster/RotateSecret", Action::Secret),
    ("Cluster/Status", Action::ReadCluster),
    ("Cluster/TransferLeader", Action::Members),
    ("Config/Apply", Action::ChangeConfig),
    ("Config/Delete", Action::ChangeConfig),
    ("Config/Diff", Action::Read),
    ("Config/Export", Action::Read),
    ("Config/Get", Action::Read),
    ("Config/History", Action::Read),
    ("Config/Rollback", Action::Rollback),
    ("Keys/CreateKey", Action::ChangeKeys),
    ("Keys/ListKeys", Action::Read),
    ("Keys/RevokeKey", Action::ChangeKeys),
    ("Keys/RotateKey", Action::ChangeKeys),
    ("Limits/GetLimits", Action::Read),
    ("Tokens/CreateToken", Action::Tokens),
    ("Tokens/ListTokens", Action::Tokens),
    ("Tokens/RevokeToken", Action::Tokens),
    ("Usage/QueryUsage", Action::Read),
];

/// What a method is; `None` where no rule speaks of it.
pub(super) fn action_of(method: &str) -> Option<Action> {
    let rule = RULES.iter().find(|(name, _)| *name == method);
    rule.map(|(_, action)| *action)
}
