"""`recordings`: a folder of recordings without transcripts, of any length.

- {name: radio, kind: recordings, split: train, path: radio, language: en}
"""

from __future__ import annotations

from stillsmall.sources.base import Clip, Language, Place, Plan, Source, audio_files, recording_name


class Recordings(Source):
    path: str
    language: Language
    glob: str = "**/*"

    def plan(self, place: Place) -> Plan:
        folder = self.folder(self.path, place)
        clips = [
            Clip(
                item=name,
                audio=folder / name,
                recording=recording_name(folder / name, place.root),
                language=self.language,
                domain=self.domain or self.name,
            )
            for name in audio_files(folder, self.glob)
        ]
        return self.planned(clips, place)
