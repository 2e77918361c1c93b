"""The flow: speech tokens, speaker embedding and an optional prompt to log-mel. Training loss and offline synthesis.

Two variants behind one interface. Non-causal: the published CosyVoice shape (https://arxiv.org/abs/2407.05407), with linear interpolation
to any mel rate. Causal: the same parts, each restricted to chunks (chunks.py): flow_stream.py makes the same mel while tokens arrive.
A prompt is the beginning of the answer's voice: its tokens stand before the answer's, its mel is given to the estimator, and its frames are
cut from the output. It is a chunk of its own that the look-ahead does not cross, so a stream can work it off before the answer begins.

Shape legend: B rows, T tokens (prompt included), F mel frames (prompt included), M mel bins, S speaker width, D encoder width.

Left out: waveforms (vocoder.py), the training loop, the speech boundary id (it is no speech token and is refused).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from osum_echat.config_token2wav import EstimatorConfig, FlowConfig, FlowSamplingConfig
from osum_echat.errors import DataError
from osum_echat.token2wav.blocks import Scope, padding_scope
from osum_echat.token2wav.chunks import Cache, ChunkGrid
from osum_echat.token2wav.encoder import TokenEncoder
from osum_echat.token2wav.estimator import VelocityEstimator
from osum_echat.token2wav.length import LengthRegulator, Segment, answer_segments, num_mel_frames, stretch
from osum_echat.token2wav.matching import cosine_time, draw_noise, euler, gaussian_velocity, path, squared_error

FLOW_PRESETS: dict[str, FlowConfig] = {
    # The flow of CosyVoice-300M-25Hz, which OSUM-EChat speaks with: 104,874,752 parameters.
    "cosyvoice_300m_25hz": FlowConfig(
        causal=False, sample_rate=22050, hop=256, mel_mean=0.0, mel_std=1.0, estimator=EstimatorConfig(channels=[256, 256])
    ),
}


@dataclass(frozen=True)
class FlowBatch:
    """Padded rows of a training batch; ``mel_BFM`` is log-mel as analysed, speakers may be zero (no speaker)."""

    tokens_BT: Tensor
    token_lens_B: Tensor
    mel_BFM: Tensor
    mel_lens_B: Tensor
    speaker_BS: Tensor


@dataclass(frozen=True)
class FlowDraws:
    """Everything random of a training step: time, noise, who keeps the condition, prompt and chunk lengths in tokens."""

    t_B: Tensor
    noise_BFM: Tensor
    keep_B: Tensor
    grid: ChunkGrid


@dataclass(frozen=True)
class Voice:
    """Whose voice: a speaker embedding (zeros for none) and, if there is one, a prompt as tokens and the log-mel of the same audio."""

    speaker_S: Tensor
    prompt_tokens_T: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    prompt_mel_FM: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What the estimator is conditioned on; ``std_B``: how far the mel is from ``mu``."""

    mu_BFM: Tensor
    speaker_BM: Tensor
    prompt_BFM: Tensor
    std_B: Tensor

    def kept(self, keep_B: Tensor) -> "Condition":
        """Without any condition where ``keep_B`` is 0."""
        keep_B11 = keep_B[:, None, None]
        std_B = 1.0 + keep_B * (self.std_B - 1.0)  # normalised mel is one away from nothing
        return Condition(self.mu_BFM * keep_B11, self.speaker_BM * keep_B[:, None], self.prompt_BFM * keep_B11, std_B)

    def with_unconditional(self) -> "Condition":
        """The rows, then the same rows without condition."""
        mu, speaker, prompt = (torch.cat((x, torch.zeros_like(x))) for x in (self.mu_BFM, self.speaker_BM, self.prompt_BFM))
        return Condition(mu, speaker, prompt, torch.cat((self.std_B, torch.ones_like(self.std_B))))


@dataclass(frozen=True)
class HopMemory:
    """What a stream remembers of its earlier hops: the speaker, and caches of all blocks, of the estimator one for each solver step."""

    speaker_1M: Tensor
    encoder: Cache
    regulator: Cache
    estimator: tuple[Cache, ...]


def check_codes(tokens_T: Tensor, codebook_size: int) -> None:
    """DataError names the first token that is not in the codebook."""
    wrong = ((tokens_T < 0) | (tokens_T >= codebook_size)).nonzero()
    if wrong.numel():
        place = int(wrong[0])
        raise DataError(
            f"speech token {int(tokens_T[place])} at place {place} is outside of the codebook of {codebook_size}; "
            "the boundary of the speech is not a speech token, leave it out",
            "token_out_of_range",
        )


class FlowLoss(NamedTuple):
    """Of each row: squared error of the velocity, number of values, and squared error of the condition as a guess of the mel."""

    velocity_B: Tensor
    count_B: Tensor
    prior_B: Tensor


class Flow(nn.Module):
    """``forward(batch, draws) -> FlowLoss``; ``synthesize`` is the offline synthesis, flow_stream.py the other one."""

    def __init__(self, cfg: FlowConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.token_embed = nn.Embedding(cfg.codebook_size, cfg.encoder.width)
        self.speaker_proj = nn.Linear(cfg.speaker_width, cfg.num_mels)
        self.encoder = TokenEncoder(cfg.encoder, cfg.lookahead_tokens if cfg.causal else 0)
        self.mu_proj = nn.Linear(cfg.encoder.width, cfg.num_mels)
        self.regulator = LengthRegulator(cfg.num_mels, cfg.causal)
        self.estimator = VelocityEstimator(cfg.estimator, cfg.num_mels, cfg.causal)
        if cfg.condition_std is not None:  # nothing to add to what is expected yet
            for parameter in self.estimator.final_proj.parameters():
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        return self.mu_proj.weight.device

    def draw(self, batch: FlowBatch, generators: Sequence[torch.Generator]) -> FlowDraws:
        """The random part of a training step; ``generators``: one a row, on the CPU.

        Chunks are drawn around the configured hop (half to twice as long, the first of any length up to that), so a stream may choose its
        hops; times follow the cosine schedule; a share of rows gets the beginning of its mel as a prompt, a share no condition at all.
        """
        cfg, num_frames = self.cfg, batch.mel_BFM.shape[1]
        later_B, first_B, prompt_B, has_prompt_B, keep_B, t_B = torch.stack([torch.rand(6, generator=row) for row in generators], 1)
        noises = [
            torch.randn(frames, cfg.num_mels, generator=row) for frames, row in zip(batch.mel_lens_B.tolist(), generators, strict=True)
        ]
        shortest = (cfg.sampling.hop_tokens + 1) // 2
        later_B = shortest + (later_B * (2 * cfg.sampling.hop_tokens - shortest + 1)).long()
        longest_B = (cfg.prompt_share * batch.token_lens_B.cpu()).long()
        prompt_B = (prompt_B * (longest_B + 1)).long() * (has_prompt_B < cfg.prompt_rate)
        grid = ChunkGrid(*(x.to(self.device) for x in (prompt_B, 1 + (first_B * later_B).long(), later_B)))
        noise_BFM = torch.stack([F.pad(noise_FM, (0, 0, 0, num_frames - len(noise_FM))) for noise_FM in noises])
        keep_B = (keep_B >= cfg.condition_drop).float()
        return FlowDraws(cosine_time(t_B).to(self.device), noise_BFM.to(self.device), keep_B.to(self.device), grid)

    def forward(self, batch: FlowBatch, draws: FlowDraws) -> FlowLoss:
        """Float32 sums over the real frames. Causal: mel lengths must be those of the tokens (``fit_mel``)."""
        cfg = self.cfg
        lens_B, prompt_B = batch.mel_lens_B, draws.grid.prompt_B
        if cfg.causal and not torch.equal(lens_B, batch.token_lens_B * int(cfg.frames_per_token)):
            raise ValueError(f"flow: {batch.token_lens_B.tolist()} tokens with {lens_B.tolist()} mel frames; use length.fit_mel")
        segments = [[pair] for pair in zip(batch.token_lens_B.tolist(), lens_B.tolist(), strict=True)]
        mu_BFM, scope = self._encode(batch.tokens_BT, batch.token_lens_B, draws.grid, segments)
        target_BFM = (batch.mel_BFM - cfg.mel_mean) / cfg.mel_std
        prompt_frames_B = prompt_B * lens_B // batch.token_lens_B
        given_BF = torch.arange(target_BFM.shape[1], device=lens_B.device) < prompt_frames_B.unsqueeze(1)
        condition = self.condition(mu_BFM, self.speaker(batch.speaker_BS), target_BFM * given_BF.unsqueeze(2)).kept(draws.keep_B)
        point_BFM, velocity_BFM = path(target_BFM, draws.noise_BFM, draws.t_B, cfg.sigma_min)
        predicted_BFM = self._velocity(point_BFM, condition, draws.t_B, scope)
        # https://arxiv.org/abs/2105.06337: a condition that is near the mel by itself teaches the encoder sooner than the velocity does
        prior_B, _ = squared_error(mu_BFM, target_BFM, lens_B)
        return FlowLoss(*squared_error(predicted_BFM, velocity_BFM, lens_B), prior_B)

    @torch.no_grad()
    def synthesize(
        self,
        tokens: Sequence[Tensor],
        voices: Sequence[Voice],
        generators: Sequence[torch.Generator],
        sampling: FlowSamplingConfig | None = None,
    ) -> list[Tensor]:
        """Mel of whole answers, (``num_mel_frames`` of its tokens, M) each; a row does not depend on the rows beside it.

        Args:
            tokens: speech tokens of each answer, at least one; DataError names a token outside of the codebook.
            voices: one a row; generators: one a row, on the CPU, they draw the noise (of the prompt first).
            sampling: steps, guidance and chunks; None takes the configuration's.
        """
        sampling, cfg = sampling or self.cfg.sampling, self.cfg
        prompts = [self.prompt(voice) for voice in voices]
        rows, segments, noises = [], [], []
        for tokens_T, (ids_T, mel_FM), generator in zip(tokens, prompts, generators, strict=True):
            if not tokens_T.numel():
                raise DataError("an answer without speech tokens has no mel", "empty_speech")
            rows.append(torch.cat((ids_T, self.check_tokens(tokens_T))))
            head = [(ids_T.shape[0], mel_FM.shape[0])] if ids_T.numel() else []
            segments.append(head + answer_segments(tokens_T.shape[0], cfg))
            noises.append(draw_noise(generator, sum(frames for _, frames in segments[-1]), cfg.num_mels))
        lens_B = torch.tensor([row.shape[0] for row in rows], device=self.device)
        first = sampling.first_hop_tokens - cfg.lookahead_tokens
        grid = ChunkGrid(
            torch.tensor([ids_T.shape[0] for ids_T, _ in prompts], device=self.device),
            torch.full_like(lens_B, first),
            torch.full_like(lens_B, sampling.hop_tokens),
        )
        mu_BFM, scope = self._encode(pad_sequence(rows, batch_first=True), lens_B, grid, segments)
        noise_BFM = pad_sequence(noises, batch_first=True).to(mu_BFM)
        prompt_BFM = torch.zeros_like(mu_BFM)
        for row, (_, mel_FM) in enumerate(prompts):
            prompt_BFM[row, : mel_FM.shape[0]] = mel_FM
        speaker_BM = self.speaker(torch.stack([voice.speaker_S for voice in voices]))
        mel_BFM = self.solve(noise_BFM, self.condition(mu_BFM, speaker_BM, prompt_BFM), scope, sampling)
        return [self.restore(mel_BFM[row, mel_FM.shape[0] : noises[row].shape[0]]) for row, (_, mel_FM) in enumerate(prompts)]

    def solve(
        self, noise_BFM: Tensor, condition: Condition, scope: Scope, sampling: FlowSamplingConfig, caches: Sequence[Cache] | None = None
    ) -> Tensor:
        """Follow the guided velocity from noise to normalised mel; both branches of the guidance go through the estimator as one batch.

        ``caches``: one for each step, of a stream.
        """
        guidance, rows = sampling.guidance, noise_BFM.shape[0]
        if guidance:
            condition, scope = condition.with_unconditional(), scope.doubled()

        def velocity(step: int, x_BFM: Tensor, t: Tensor) -> Tensor:
            x_BFM = torch.cat((x_BFM, x_BFM)) if guidance else x_BFM
            now = scope if caches is None else scope._replace(cache=caches[step])
            v_BFM = self._velocity(x_BFM, condition, t.expand(x_BFM.shape[0]), now)
            return torch.lerp(v_BFM[rows:], v_BFM[:rows], 1.0 + guidance) if guidance else v_BFM

        return euler(velocity, sampling.temperature * noise_BFM, sampling.num_steps)

    def hop(
        self,
        tokens_T: Tensor,
        size: int,
        noise_FM: Tensor,
        memory: HopMemory,
        sampling: FlowSamplingConfig,
        given_FM: Tensor | None = None,
    ) -> Tensor:
        """Normalised mel (F, M) of the first ``size`` of the tokens of a stream, the others are the look-ahead; causal variant only.

        Args:
            noise_FM: of the frames that come out; memory: what earlier hops left, in which this one leaves its own.
            given_FM: the mel of these frames, when they are a prompt.
        """
        x_1TD = self.encoder.front(self.token_embed(tokens_T.unsqueeze(0)), None)[:, :size]
        mu_1TM = self.mu_proj(self.encoder(x_1TD, cache=memory.encoder))
        mu_1FM = self.regulator(mu_1TM.repeat_interleave(int(self.cfg.frames_per_token), 1), Scope(cache=memory.regulator))
        given_1FM = torch.zeros_like(mu_1FM) if given_FM is None else given_FM.unsqueeze(0)
        condition = self.condition(mu_1FM, memory.speaker_1M, given_1FM)
        return self.solve(noise_FM.to(mu_1FM).unsqueeze(0), condition, Scope(), sampling, memory.estimator)[0]

    def condition(self, mu_BFM: Tensor, speaker_BM: Tensor, prompt_BFM: Tensor) -> Condition:
        """Of rows that have one."""
        std = 1.0 if self.cfg.condition_std is None else self.cfg.condition_std
        return Condition(mu_BFM, speaker_BM, prompt_BFM, mu_BFM.new_full((mu_BFM.shape[0],), std))

    def _velocity(self, point_BFM: Tensor, condition: Condition, t_B: Tensor, scope: Scope) -> Tensor:
        """What the estimator says, by itself or beside what the condition alone lets expect."""
        cfg = self.cfg
        estimate_BFM = self.estimator(point_BFM, condition.mu_BFM, condition.speaker_BM, condition.prompt_BFM, t_B, scope)
        if cfg.condition_std is None:
            return estimate_BFM
        expected_BFM, std_B11 = gaussian_velocity(point_BFM, condition.mu_BFM, condition.std_B, t_B, cfg.sigma_min)
        return expected_BFM + std_B11 * estimate_BFM

    def speaker(self, speaker_BS: Tensor) -> Tensor:
        """(B, M) from embeddings of any length; zeros stay no speaker but the bias."""
        return self.speaker_proj(F.normalize(speaker_BS.to(self.mu_proj.weight), dim=1))

    def prompt(self, voice: Voice) -> tuple[Tensor, Tensor]:
        """(tokens, normalised mel) of a voice on the model's device, both empty without a prompt; DataError when they do not fit."""
        cfg, ids_T, mel_FM = self.cfg, voice.prompt_tokens_T, voice.prompt_mel_FM
        frames = 0 if mel_FM is None else mel_FM.shape[0]
        if frames == 0 and ids_T.numel() == 0:
            return self.check_tokens(ids_T), self.no_mel()
        if mel_FM is None or 0 in (frames, ids_T.numel()) or (cfg.causal and frames != num_mel_frames(ids_T.shape[0], cfg)):
            raise DataError(
                f"a voice prompt needs tokens and the mel of the same audio, got {ids_T.numel()} tokens and {frames} frames, "
                f"expected {num_mel_frames(ids_T.numel(), cfg)} frames (length.fit_mel cuts them)",
                "bad_prompt",
            )
        return self.check_tokens(ids_T), (mel_FM.to(self.mu_proj.weight) - cfg.mel_mean) / cfg.mel_std

    def check_tokens(self, tokens_T: Tensor) -> Tensor:
        """The tokens on the model's device; see :func:`check_codes`."""
        check_codes(tokens_T, self.cfg.codebook_size)
        return tokens_T.long().to(self.device)

    def no_mel(self) -> Tensor:
        """(0, M)"""
        return self.mu_proj.weight.new_zeros(0, self.cfg.num_mels)

    def restore(self, mel_FM: Tensor) -> Tensor:
        """Log-mel from normalised mel."""
        return mel_FM * self.cfg.mel_std + self.cfg.mel_mean

    def _encode(self, tokens_BT: Tensor, lens_B: Tensor, grid: ChunkGrid, segments: Sequence[Sequence[Segment]]) -> tuple[Tensor, Scope]:
        """Whole rows: (mu_BFM, what the estimator may see of the frames)."""
        x_BTD, longest = self.token_embed(tokens_BT), tokens_BT.shape[1]
        if not self.cfg.causal:
            mu_BTM = self.mu_proj(self.encoder(x_BTD, padding_scope(lens_B, longest).visible_BQK))
            mu_BFM = stretch(mu_BTM, segments)
            frames_B = torch.tensor([sum(frames for _, frames in row) for row in segments], device=lens_B.device)
            scope = padding_scope(frames_B, mu_BFM.shape[1])
            return self.regulator(mu_BFM, scope), scope
        factor, left = int(self.cfg.frames_per_token), self.cfg.left_tokens
        prompt_B1 = grid.prompt_B.unsqueeze(1)
        in_prompt_BT = torch.arange(longest, device=lens_B.device) < prompt_B1
        x_BTD = self.encoder.front(x_BTD, torch.where(in_prompt_BT, prompt_B1, lens_B.unsqueeze(1)))
        mu_BTM = self.mu_proj(self.encoder(x_BTD, grid.mask(lens_B, longest, left, see_prompt=False)))
        mu_BFM = self.regulator(mu_BTM.repeat_interleave(factor, 1), Scope())
        return mu_BFM, Scope(None, grid.scaled(factor).mask(lens_B * factor, longest * factor, left * factor, see_prompt=True))
