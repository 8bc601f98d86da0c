"""The student as MLflow serves it: *model from code*, so that nothing in the registry is a pickle.

    model = mlflow.pyfunc.load_model("models:/stillsmall-student@candidate")
    model.predict(pandas.DataFrame({"audio": [Path("speech.flac").read_bytes()]}), params={"language": "en"})

One row in (the bytes of any audio file, of any length), one row out (`text`). MLflow runs this file where it loads the
model; the student's folder is the artifact `student`, and stillsmall's own code travels along for decoding audio.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd


class StudentModel(mlflow.pyfunc.PythonModel):
    """A Whisper-shaped student, or a CTC student, behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        from stillsmall.compute import model_type, quiet
        from stillsmall.ctc import KINDS

        quiet()
        folder = context.artifacts["student"]
        self.frames: Any = None
        if model_type(".", folder, None) in KINDS:
            from stillsmall.transcription import listener

            self.frames = listener(folder, None, timestamps=True, device="cpu")
            return
        self.processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True).float().eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        params = params or {}
        texts = [self._text(bytes(audio), params) for audio in model_input["audio"]]
        return pd.DataFrame({"text": texts})

    def _text(self, audio: bytes, params: dict[str, Any]) -> str:
        import torch

        from stillsmall.audio import SAMPLE_RATE, decode

        samples = decode(audio)
        if not samples.size:
            return ""
        if self.frames is not None:
            return self._by_frames(samples, params)
        window = self.processor.feature_extractor.n_samples  # what the encoder hears at once
        long = len(samples) > window
        shape = {"truncation": False, "padding": "longest"} if long else {}
        features = self.processor(
            samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **shape
        )
        timestamps = bool(params.get("timestamps")) or long  # the timestamps say where the next window begins
        with torch.inference_mode():
            tokens = self.model.generate(
                features.input_features,
                attention_mask=features.attention_mask,
                return_timestamps=timestamps,
                **self._spoken(params),
            )
        shown = bool(params.get("timestamps"))
        return str(
            self.processor.batch_decode(tokens, skip_special_tokens=True, decode_with_timestamps=shown)[0].strip()
        )

    def _by_frames(self, samples: Any, params: dict[str, Any]) -> str:
        """Of a CTC student, which knows neither languages nor translation. Times are written as Whisper writes them."""
        from stillsmall.teachers.base import Clip, Failed
        from stillsmall.text import join

        if params.get("task") == "translate":
            raise ValueError("task: 'translate'; this student is a CTC model, which writes down what it hears")
        rows = self.frames.transcribe([Clip("audio", samples, None)])[0]
        if isinstance(rows, Failed):
            raise RuntimeError(f"{rows.reason}: {rows.detail}")
        if not params.get("timestamps"):
            return join((row.text for row in rows), params.get("language") or "en")
        timed = [(row.start_s + s.start, row.start_s + s.end, s.text) for row in rows for s in row.segments]
        return "".join(f"<|{start:.2f}|> {text}<|{end:.2f}|>" for start, end, text in timed)

    def _spoken(self, params: dict[str, Any]) -> dict[str, str]:
        """Language and task, for a model that knows several; "" leaves the language to the model."""
        if not getattr(self.model.generation_config, "is_multilingual", False):
            return {}
        language = params.get("language") or None
        return {"task": params.get("task") or "transcribe", **({"language": language} if language else {})}


mlflow.models.set_model(StudentModel())
