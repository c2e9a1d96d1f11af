"""The status of Ratchet: the few facts that `ratchet status` and /status show."""

from dataclasses import asdict, dataclass
from datetime import datetime

from store.adapters import Adapters
from store.conversations import Conversations
from store.database import Database
from store.documents.documents import Documents
from store.domain import Adapter
from store.runs import Runs
from store.settings_slices import EngineSettings, StorageSettings
from store.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class Status:
    """The keys of `ratchet status --json`."""

    adapter: str | None
    """Name of the active version; None when the base model answers."""
    engine: str
    model: str
    database: str
    schema: str | None
    chroma: str
    turns: int
    ratings: dict[str, int]
    pending_documents: int
    """Documents that are not indexed yet."""
    queue: int
    """Training runs that wait."""
    next_run: str | None
    """Time of the next scheduled training run, ISO 8601; None when none is scheduled."""

    def rows(self) -> list[tuple[str, str]]:
        """Return name and value of every fact, as the command line shows them."""
        shown = asdict(self)
        shown["adapter"] = self.adapter or "none (the base model)"
        shown["ratings"] = f"{self.ratings['up']} 👍 {self.ratings['down']} 👎"
        shown["next_run"] = self.next_run or "none scheduled"
        return [(name, str(value)) for name, value in shown.items()]


class StatusReader:
    """Reads the status from the store; it can do so while the bot runs."""

    def __init__(
        self,
        *,
        engine: EngineSettings,
        storage: StorageSettings,
        train_cron: str,
        database: Database,
        conversations: Conversations,
        knowledge: Documents,
        adapters: Adapters,
        runs: Runs,
        statistics: Statistics,
    ) -> None:
        self._engine_settings = engine
        self._storage = storage
        self._train_cron = train_cron
        self._database = database
        self._conversations = conversations
        self._knowledge = knowledge
        self._adapters = adapters
        self._runs = runs
        self._statistics = statistics

    def read(self) -> Status:
        """Return the status as of now."""
        active = self._adapters.active()
        ratings = self._statistics.ratings()
        return Status(
            adapter=active.name if active else None,
            engine=self._engine(active),
            model=self._engine_settings.model,
            database=self._database.engine.url.render_as_string(hide_password=True),
            schema=self._database.revision(),
            chroma=self._storage.chroma_url or str(self._storage.chroma_path),
            turns=self._conversations.count(),
            ratings={"up": ratings.up, "down": ratings.down},
            pending_documents=self._knowledge.pending(),
            queue=self._runs.queued(),
            next_run=self._next_run(),
        )

    def text(self) -> str:
        """Return the status as admins see it in Telegram: numbers and times, but no paths."""
        now = self.read()
        version = f"version {now.adapter}" if now.adapter else "the base model"
        documents = f"Documents: {self._statistics.documents()}"
        if now.pending_documents:
            documents += f", {now.pending_documents} of them being read"
        run = "none scheduled"
        if now.next_run is not None:
            run = f"{datetime.fromisoformat(now.next_run):%A, %d %B %Y, %H:%M} UTC"
        lines = (
            f"Answering: {version}",
            f"Model: {now.model}",
            f"Engine: {now.engine}",
            f"People: {self._statistics.people()}",
            f"Answers given: {now.turns}",
            f"Ratings: {now.ratings['up']} 👍, {now.ratings['down']} 👎",
            documents,
            f"Training runs waiting: {now.queue}",
            f"Next training run: {run}",
        )
        return "\n".join(lines)

    def _engine(self, active: Adapter | None) -> str:
        if self._engine_settings.vllm_url:
            return f"vllm ({', '.join(self._engine_settings.vllm_url)})"
        beside = active is not None and active.notes.merged is False
        slower = "; too little memory to merge the adapter, replies are slower" if beside else ""
        return f"local ({self._engine_settings.device}{slower})"

    def _next_run(self) -> str | None:
        if self._train_cron == "off":
            return None
        from apscheduler.triggers.cron import CronTrigger  # most commands do without

        trigger = CronTrigger.from_crontab(self._train_cron, timezone="UTC")
        due = trigger.get_next_fire_time(None, self._database.now())
        return due.isoformat() if due else None
