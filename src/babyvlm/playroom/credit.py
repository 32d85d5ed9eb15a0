"""Icon sets from which Playroom's images are drawn, with their licenses, and which files show such images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class IconSet:
    """An npm package of icons: name, version, integrity as in an npm lock file, license, and whom to credit."""

    name: str
    version: str
    integrity: str
    license: str
    credit: str

    @property
    def file_name(self) -> str:
        """Name of the file that ``npm pack`` writes."""
        return f"iconify-json-{self.name}-{self.version}.tgz"


ICON_SETS = (
    IconSet(
        "openmoji",
        "1.2.29",
        "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
        "OpenMoji (HfG Schwäbisch Gmünd)",
    ),
    IconSet(
        "noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Noto Emoji (Google)",
    ),
    IconSet(
        "noto-v1",
        "1.2.5",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0",
        "Noto Emoji, version 1 (Google)",
    ),
    IconSet(
        "twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twemoji (Twitter and contributors)",
    ),
    IconSet(
        "fluent-emoji",
        "1.2.7",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT",
        "Fluent Emoji (Microsoft)",
    ),
    IconSet(
        "fxemoji",
        "1.2.2",
        "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "Apache-2.0",
        "FxEmoji (Mozilla)",
    ),
    IconSet(
        "emojione",
        "1.2.3",
        "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "CC-BY-4.0",
        "EmojiTwo (EmojiOne and contributors)",
    ),
    IconSet(
        "emojione-v1",
        "1.2.3",
        "sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        "CC-BY-SA-4.0",
        "EmojiOne, version 1 (Ranks.com)",
    ),
    IconSet(
        "streamline-emojis",
        "1.2.4",
        "sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        "CC-BY-4.0",
        "Streamline Emojis (Streamline)",
    ),
)

CREDIT = "; ".join(f"{pack.credit}, {pack.license}" for pack in ICON_SETS)


def is_in_playroom(path: Path) -> bool:
    """Return whether a file or folder belongs to Playroom: the world's manifest lies in a folder above it."""
    return any((folder / "playroom.json").is_file() for folder in path.resolve().parents)
