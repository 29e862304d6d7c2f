"""A Hugging Face Space: what its environment says about it, and who of the Hub's users may do what there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from annotation.records import Role, UserError
from annotation.translation import N_, _

HUB: Final = "https://huggingface.co"
# The embedded model's package must be installed without its dependencies, which a Space's requirements can't say.
SPACE_MODEL: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What a Space's proxy speaks from. Trusting any peer would let visitors choose the address that the throttle counts.
PROXIES: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
HUB_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})")
# Words of the two rules; anything else is a list of names.
ADMINS: Final = ("owner", "org")
ANNOTATORS: Final = ("everybody", "nobody", "owner", "org")
ZERO_GPU_NOTICE: Final = N_(
    "This Space has ZeroGPU: a GPU is lent for a minute to a function that a page calls, never to a process in the "
    "background. Training, checks and AI judges are such processes, so here they have the processors alone and are "
    "slow: choose paid hardware in the Space's settings, or rent some for one training, by “On rented hardware” in its "
    "form. Answers are kept in stock, and the Playground answers, only while “Write answers” has the lent GPU write."
)


@dataclass(frozen=True)
class HubUser:
    """Somebody who has signed in with Hugging Face. The id stays when the name changes."""

    id: str
    name: str
    organisations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    id: str
    """OWNER/NAME."""
    hosts: tuple[str, ...]
    """The names that browsers know it by, the first one for links; a local test's has a port."""
    author: str
    creator_id: str
    """The id of the user who made it, who may have left the organisation since, or given it away."""
    admins: str = "owner"
    """'owner', 'org' for all members of the organisation it belongs to, or names with commas between."""
    annotators: str = "everybody"
    """'everybody', 'nobody', 'owner', 'org', or names; beside the admins."""
    zero_gpu: bool = False
    """Whether a GPU is only lent to functions of the web process."""
    hub: str = HUB
    """Where people sign in, and whose page shows this one in a frame."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Space | None:
        """The Space that these variables describe; None off Spaces. Raises UserError for a rule that means nothing."""
        if environment.get("SYSTEM") != "spaces" or not environment.get("SPACE_ID"):
            return None
        hosts = tuple(name.strip() for name in environment.get("SPACE_HOST", "").split(",") if name.strip())
        if not hosts:
            raise UserError(_("SPACE_HOST is not set, so this Space does not know its own address. Restart the Space."))
        return cls(
            id=environment["SPACE_ID"],
            hosts=hosts,
            author=environment.get("SPACE_AUTHOR_NAME") or environment["SPACE_ID"].split("/")[0],
            creator_id=environment.get("SPACE_CREATOR_USER_ID", ""),
            admins=checked_rule("PREFLOOP_ADMINS", environment.get("PREFLOOP_ADMINS") or "owner", ADMINS),
            annotators=checked_rule(
                "PREFLOOP_ANNOTATORS", environment.get("PREFLOOP_ANNOTATORS") or "everybody", ANNOTATORS
            ),
            zero_gpu=environment.get("SPACES_ZERO_GPU", "").casefold() in ("1", "t", "true"),
            hub=(environment.get("OPENID_PROVIDER_URL") or HUB).rstrip("/"),
        )

    @property
    def secure(self) -> bool:
        """Whether browsers come through TLS: always, but for a test on this machine."""
        return urlsplit(f"//{self.hosts[0]}").hostname not in LOOPBACK_NAMES

    @property
    def address(self) -> str:
        """Where the program is without a frame around it."""
        return f"{'https' if self.secure else 'http'}://{self.hosts[0]}/"

    @property
    def framed_by(self) -> str:
        """The origin whose page shows the Space in a frame."""
        parts = urlsplit(self.hub)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def rules(self) -> tuple[str, ...]:
        """All that decides who may do what."""
        return self.admins, self.annotators, self.author, self.creator_id

    def role_of(self, user: HubUser) -> Role | None:
        """What the rules let somebody be; None where they let them in as nothing."""
        if self.meets(self.admins, user):
            return "admin"
        return "annotator" if self.meets(self.annotators, user) else None

    def meets(self, rule: str, user: HubUser) -> bool:
        """Whether a rule means this user. Names on the Hub differ by more than upper and lower case."""
        match rule:
            case "everybody":
                return True
            case "nobody":
                return False
            case "owner":
                return same(user.name, self.author) or (user.id == self.creator_id and self.has_member(user))
            case "org":
                return self.has_member(user)
        return any(same(name, user.name) for name in rule.split(","))

    def has_member(self, user: HubUser) -> bool:
        """Whether somebody is in the organisation that it belongs to, as far as they have let us know."""
        return any(same(name, self.author) for name in user.organisations)


def same(one: str, other: str) -> bool:
    """Whether two names on the Hub mean the same."""
    return one.casefold() == other.casefold()


def checked_rule(variable: str, rule: str, words: tuple[str, ...]) -> str:
    """A rule without blanks. Raises UserError where it is neither one of the words nor a list of names."""
    names = [name.strip() for name in rule.split(",")]
    if names[0] in words and len(names) == 1:
        return names[0]
    mistaken = [name for name in names if name in (*ADMINS, *ANNOTATORS) or not HUB_NAME.fullmatch(name)]
    if mistaken:
        said = _(
            "{variable} is '{rule}', where '{mistaken}' can't stand. It takes {words}, or names of users "
            "on the Hub with commas between."
        )
        raise UserError(said.format(variable=variable, rule=rule, mistaken=mistaken[0], words=", ".join(words)))
    return ",".join(names)
