"""The objects that handle updates, one field a conversation."""

from dataclasses import dataclass

from bot.telegram.access import AccessHandlers
from bot.telegram.admin import AdminHandlers
from bot.telegram.admission import Admission
from bot.telegram.approval import ApprovalHandlers
from bot.telegram.consent import Consent
from bot.telegram.golden import GoldenHandlers
from bot.telegram.group import GroupHandlers
from bot.telegram.invitation import InvitationHandlers
from bot.telegram.privacy import PrivacyHandlers
from bot.telegram.quarantine import QuarantineHandlers
from bot.telegram.questions import QuestionHandlers
from bot.telegram.rating import RatingHandlers
from bot.telegram.training import TrainingHandlers
from bot.telegram.uploads import UploadHandlers
from bot.telegram.welcome import WelcomeHandlers


@dataclass(frozen=True, kw_only=True)
class Handlers:
    """Every handler of one bot."""

    gate: Admission
    access: AccessHandlers
    welcome: WelcomeHandlers
    talking: QuestionHandlers
    rating: RatingHandlers
    documents: UploadHandlers
    privacy: PrivacyHandlers
    consent: Consent
    admin: AdminHandlers
    learning: TrainingHandlers
    approval: ApprovalHandlers
    golden: GoldenHandlers
    quarantine: QuarantineHandlers
    invitation: InvitationHandlers
    group: GroupHandlers
