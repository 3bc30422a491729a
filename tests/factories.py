"""Rows for tests, with defaults that satisfy every constraint."""

import factory
from django.contrib.auth import get_user_model
from django.db.models.functions import Now

from agents.models import Role
from chat.models import Chat, Membership, Message, Workspace
from runs.models import Run, Step, ToolCall


class UserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = get_user_model()
        skip_postgeneration_save = True

    username = factory.Sequence(lambda number: f"person{number}")
    password = "!"  # hashing one takes longer than most tests; they log in by force


class WorkspaceFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Workspace

    name = "workspace"
    autonomous_runs = True


class MembershipFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Membership

    workspace = factory.SubFactory(WorkspaceFactory)
    user = factory.SubFactory(UserFactory)


class ChatFactory(factory.django.DjangoModelFactory):
    """With an owner who is in its workspace."""

    class Meta:
        model = Chat
        skip_postgeneration_save = True

    workspace = factory.SubFactory(WorkspaceFactory)
    created_by = factory.SubFactory(UserFactory)

    @factory.post_generation
    def member(self: Chat, create: bool, extracted: object, **_: object) -> None:
        if create:
            Membership.objects.get_or_create(workspace=self.workspace, user=self.created_by)


class MessageFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Message

    chat = factory.SubFactory(ChatFactory)
    role = "user"
    parts = factory.LazyFunction(lambda: [{"type": "text", "text": "hello"}])


class RoleFactory(factory.django.DjangoModelFactory):
    """Global, with the installation's model and no tools."""

    class Meta:
        model = Role

    name = factory.Sequence(lambda number: f"role{number}")


class RunFactory(factory.django.DjangoModelFactory):
    """Pending by default, or `running=True`; see `run_in`."""

    class Meta:
        model = Run

    class Params:
        running = factory.Trait(
            status="running",
            started_at=Now(),
            heartbeat_at=Now(),
            worker="runs@test",
            claim_token=factory.Faker("uuid4"),
        )

    chat = factory.SubFactory(ChatFactory)
    workspace = factory.SelfAttribute("chat.workspace")
    created_by = factory.SelfAttribute("chat.created_by")
    message = factory.SubFactory(
        MessageFactory, chat=factory.SelfAttribute("..chat"), role="assistant", parts=[], status="streaming"
    )
    model = "openai/demo"
    trigger = "user"
    sent_at = Now()
    max_steps = 20
    max_seconds = 3600

    @classmethod
    def _create(cls, model_class: type[Run], *args: object, **fields: object) -> Run:
        run = super()._create(model_class, *args, **fields)
        run.refresh_from_db()
        return run


ENDED = {"succeeded": "completed", "failed": "provider_error", "aborted": "stopped"}


def run_in(status: str, **fields: object) -> Run:
    """A run in this status, as the lifecycle would have left it."""
    if status == "running":
        return RunFactory(running=True, **fields)
    if status == "pending":
        return RunFactory(**fields)
    return RunFactory(status=status, end_reason=ENDED[status], started_at=Now(), finished_at=Now(), **fields)


class StepFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Step

    run = factory.SubFactory(RunFactory)
    index = 0
    attempt = 1
    parts = factory.LazyFunction(lambda: [{"type": "step-start"}, {"type": "text", "text": "hello", "state": "done"}])
    model = "demo"
    finish_reason = "stop"
    started_at = Now()


class ToolCallFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = ToolCall

    step = factory.SubFactory(StepFactory)
    run = factory.SelfAttribute("step.run")
    call_id = factory.Sequence(lambda number: f"call_{number}")
    name = "current_time"
    input = factory.LazyFunction(dict)
    repeat = "safe"
