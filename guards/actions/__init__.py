"""Everything that changes the state: each action authorises, writes the ledger and takes effect, in one transaction.

An action that was killed has either happened or not; run again with the same arguments, it
returns the entry that exists. Each function's docstring says what makes it the same.
"""

from guards.actions.adopt import adopt_policy, draft_policy_statement, edit_approvals, policy_obstacle, sign_policy
from guards.actions.bundles import install_bundle
from guards.actions.judge import record_decision, record_evidence, record_verdicts
from guards.actions.outcome import decision_now, read_verdict, verdicts_now, waivers_now
from guards.actions.policies import record_policy
from guards.actions.promotion import promote, rollback
from guards.actions.root import set_root
from guards.actions.seal import Draw, abandon_look, draw_seed, seal_candidate
from guards.actions.signoff import ApprovalStatus, approval_status, draft_statement, sign_off
from guards.actions.steps import finish_run, finish_step, record_measured, start_run, start_step
from guards.actions.stop import halt, lift, recall, record_cleanup
from guards.actions.waive import draft_waiver, waive

__all__ = [
    "ApprovalStatus",
    "Draw",
    "abandon_look",
    "adopt_policy",
    "approval_status",
    "decision_now",
    "draft_policy_statement",
    "draft_statement",
    "draft_waiver",
    "draw_seed",
    "edit_approvals",
    "finish_run",
    "finish_step",
    "halt",
    "install_bundle",
    "lift",
    "policy_obstacle",
    "promote",
    "read_verdict",
    "recall",
    "record_cleanup",
    "record_decision",
    "record_evidence",
    "record_measured",
    "record_policy",
    "record_verdicts",
    "rollback",
    "seal_candidate",
    "set_root",
    "sign_off",
    "sign_policy",
    "start_run",
    "start_step",
    "verdicts_now",
    "waive",
    "waivers_now",
]
