"""The flow as a whole: published sizes, loss, guidance, padding, conditions, and that it learns."""

import math
import re

import pytest
import torch

from osum_echat.errors import DataError
from osum_echat.token2wav.chunks import ChunkGrid
from osum_echat.token2wav.flow import FLOW_PRESETS, Flow, FlowBatch, FlowDraws, Voice
from osum_echat.token2wav.length import num_mel_frames

# Published names, outermost first, and ours (reference/osum_contract.md §6).
RENAMES = [
    (r"^input_embedding", "token_embed"),
    (r"^spk_embed_affine_layer", "speaker_proj"),
    (r"^encoder_proj", "mu_proj"),
    (r"^encoder\.embed\.out\.0", "encoder.embed"),
    (r"^encoder\.embed\.out\.1", "encoder.embed_norm"),
    (r"^encoder\.encoders", "encoder.layers"),
    (r"\.self_attn\.linear_out", ".attention.o_proj"),
    (r"\.self_attn\.linear_(q|k|v|pos)", r".attention.\1_proj"),
    (r"\.self_attn", ".attention"),
    (r"\.feed_forward\.w_1", ".up_proj"),
    (r"\.feed_forward\.w_2", ".down_proj"),
    (r"\.norm_mha", ".norm1"),
    (r"\.norm_ff", ".norm2"),
    (r"^length_regulator\.model\.12", "regulator.out"),
    (r"^length_regulator\.model\.(\d+)", lambda m: f"regulator.blocks.{int(m[1]) // 3}.{('conv', 'norm')[int(m[1]) % 3]}"),
    (r"^decoder\.", ""),
    (r"time_mlp\.linear_1", "time_in"),
    (r"time_mlp\.linear_2", "time_out"),
    (r"(down|mid|up)_blocks\.(\d+)\.0\.mlp\.1", r"\1.\2.residual.time_proj"),
    (r"(down|mid|up)_blocks\.(\d+)\.0\.res_conv", r"\1.\2.residual.skip"),
    (r"(down|mid|up)_blocks\.(\d+)\.0\.", r"\1.\2.residual."),
    (r"(down|mid|up)_blocks\.(\d+)\.1\.", r"\1.\2.blocks."),
    (r"(down|up)_blocks\.(\d+)\.2(\.conv)?", r"\1.\2.resample"),
    (r"\.block\.0", ".conv"),
    (r"\.block\.1", ".norm"),
    (r"\.norm3", ".norm2"),
    (r"\.attn1\.to_out\.0", ".o_proj"),
    (r"\.attn1\.to_(q|k|v)", r".\1_proj"),
    (r"\.ff\.net\.0\.proj", ".up_proj"),
    (r"\.ff\.net\.2", ".down_proj"),
]


class Shapes(dict):
    """Shapes by published names."""

    def add(self, name, *shape, bias=True):
        self[f"{name}.weight"] = shape
        if bias:
            self[f"{name}.bias"] = shape[:1]


def published_encoder():
    """Everything of flow.pt but the estimator."""
    shapes = Shapes({"input_embedding.weight": (4096, 512)})
    add = shapes.add
    add("spk_embed_affine_layer", 80, 192)
    add("encoder.embed.out.0", 512, 512)
    for name in ("encoder.embed.out.1", "encoder.after_norm"):
        add(name, 512)
    for i in range(6):
        layer = f"encoder.encoders.{i}"
        for part in ("q", "k", "v", "out"):
            add(f"{layer}.self_attn.linear_{part}", 512, 512)
        add(f"{layer}.self_attn.linear_pos", 512, 512, bias=False)
        shapes |= {f"{layer}.self_attn.pos_bias_{x}": (8, 64) for x in "uv"}
        add(f"{layer}.feed_forward.w_1", 2048, 512)
        add(f"{layer}.feed_forward.w_2", 512, 2048)
        for norm in ("norm_mha", "norm_ff"):
            add(f"{layer}.{norm}", 512)
    add("encoder_proj", 80, 512)
    for i in range(0, 12, 3):
        add(f"length_regulator.model.{i}", 80, 80, 3)
        add(f"length_regulator.model.{i + 1}", 80)
    add("length_regulator.model.12", 80, 80, 1)
    return shapes


def published_estimator():
    """The estimator of flow.pt."""
    shapes, estimator = Shapes(), "decoder.estimator"
    add = shapes.add

    def resnet(name, channels):
        add(f"{name}.mlp.1", 256, 1024)
        for block, width in (("block1", channels), ("block2", 256)):
            add(f"{name}.{block}.block.0", 256, width, 3)
            add(f"{name}.{block}.block.1", 256)
        add(f"{name}.res_conv", 256, channels, 1)

    def transformer(name):
        for norm in ("norm1", "norm3"):
            add(f"{name}.{norm}", 256)
        for part in "qkv":
            add(f"{name}.attn1.to_{part}", 512, 256, bias=False)
        add(f"{name}.attn1.to_out.0", 256, 512)
        add(f"{name}.ff.net.0.proj", 1024, 256)
        add(f"{name}.ff.net.2", 256, 1024)

    add(f"{estimator}.time_mlp.linear_1", 1024, 320)
    add(f"{estimator}.time_mlp.linear_2", 1024, 1024)
    blocks = [("down_blocks.0", 320), ("down_blocks.1", 256), *((f"mid_blocks.{i}", 256) for i in range(12))]
    for name, channels in [*blocks, ("up_blocks.0", 512), ("up_blocks.1", 512)]:
        resnet(f"{estimator}.{name}.0", channels)
        for i in range(4):
            transformer(f"{estimator}.{name}.1.{i}")
    for name, kernel in (("down_blocks.0.2.conv", 3), ("down_blocks.1.2", 3), ("up_blocks.0.2.conv", 4), ("up_blocks.1.2", 3)):
        add(f"{estimator}.{name}", 256, 256, kernel)
    add(f"{estimator}.final_block.block.0", 256, 256, 3)
    add(f"{estimator}.final_block.block.1", 256)
    add(f"{estimator}.final_proj", 80, 256, 1)
    return shapes


def renamed(name):
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def test_published_flow_has_the_published_tensors():
    with torch.device("meta"):
        flow = Flow(FLOW_PRESETS["cosyvoice_300m_25hz"])
    published = published_encoder() | published_estimator()
    assert len(published) == 1185 and sum(math.prod(shape) for shape in published.values()) == 104_874_752
    assert sum(p.numel() for p in flow.parameters()) == 104_874_752
    ours = {name: tuple(tensor.shape) for name, tensor in flow.state_dict().items()}
    assert {renamed(name): shape for name, shape in published.items()} == ours


def draws_for(batch, prompt=(0, 0, 0), keep=(1.0, 1.0, 1.0), seed=5):
    rows = batch.tokens_BT.shape[0]
    draw = torch.Generator().manual_seed(seed)
    grid = ChunkGrid(torch.tensor(prompt[:rows]), torch.full((rows,), 5), torch.full((rows,), 10))
    return FlowDraws(torch.rand(rows, generator=draw), torch.randn(batch.mel_BFM.shape, generator=draw), torch.tensor(keep[:rows]), grid)


def row_of(item, row, tokens, frames):
    """One row of a batch or of draws, cut to its length."""
    cut = {}
    for name, x in vars(item).items():
        if isinstance(x, ChunkGrid):
            cut[name] = ChunkGrid(*(y[row : row + 1] for y in vars(x).values()))
        else:
            length = {"tokens_BT": tokens, "mel_BFM": frames, "noise_BFM": frames}.get(name)
            cut[name] = x[row : row + 1] if length is None else x[row : row + 1, :length]
    return type(item)(**cut)


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_loss_of_a_padded_batch_is_the_sum_over_rows_alone(flows, causal):
    flow = flows.tiny_flow(causal)
    batch = flows.training_batch(flow, [23, 7, 16])
    draws = draws_for(batch, prompt=(5, 0, 4), keep=(1.0, 0.0, 1.0))
    total, count, _ = (x.sum() for x in flow(batch, draws))
    assert count.item() == int(batch.mel_lens_B.sum()) * 8
    alone = 0.0
    for row in range(3):
        sizes = (int(batch.token_lens_B[row]), int(batch.mel_lens_B[row]))
        part, number, _ = flow(row_of(batch, row, *sizes), row_of(draws, row, *sizes))
        assert number.item() == sizes[1] * 8
        alone += part.item()
    assert total.item() == pytest.approx(alone, rel=1e-5)


@torch.no_grad()
def test_loss_of_a_known_estimator(flows):
    """An estimator that answers 0 leaves the velocity itself: target - (1 - s) noise, with the target normalised."""
    flow = flows.tiny_flow(sigma_min=0.1)
    flow.estimator.final_proj.weight.zero_()
    flow.estimator.final_proj.bias.zero_()
    batch = flows.training_batch(flow, [6, 3])
    draws = draws_for(batch)
    want = 0.0
    for row, frames in enumerate((12, 6)):
        target = (batch.mel_BFM[row, :frames] + 5.0) / 2.5
        want += ((target - 0.9 * draws.noise_BFM[row, :frames]) ** 2).sum().item()
    total, count, _ = (x.sum() for x in flow(batch, draws))
    assert total.item() == pytest.approx(want, rel=1e-5) and count.item() == 18 * 8


@pytest.mark.parametrize("causal", [True, False])
def test_loss_under_autocast_is_near_and_every_parameter_learns(flows, causal):
    flow = flows.tiny_flow(causal).train()
    batch = flows.training_batch(flow, [23, 7, 16])
    draws = draws_for(batch, prompt=(5, 0, 4))
    torch.manual_seed(0)
    want = flow(batch, draws)[0].sum().item()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = flow(batch, draws)[0].sum()
    assert total.dtype == torch.float32 and total.item() == pytest.approx(want, rel=0.03)
    total.backward()
    silent = [n for n, p in flow.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all() or p.grad.abs().max() == 0]
    assert not silent, silent


@torch.no_grad()
def test_a_row_without_condition_sees_neither_tokens_nor_speaker_nor_prompt(flows):
    flow = flows.tiny_flow()
    batch = flows.training_batch(flow, [9])
    other = FlowBatch(batch.tokens_BT.flip(1), batch.token_lens_B, batch.mel_BFM, batch.mel_lens_B, -batch.speaker_BS)
    dropped, kept = (draws_for(batch, prompt=(3,), keep=(k,)) for k in (0.0, 1.0))
    assert torch.equal(flow(batch, dropped)[0], flow(other, dropped)[0])
    assert not torch.equal(flow(batch, kept)[0], flow(other, kept)[0])
    assert torch.equal(flow(batch, dropped)[0], flow(batch, draws_for(batch, prompt=(3,), keep=(0.0,)))[0])


@pytest.mark.parametrize(("causal", "frames"), [(True, 10), (False, 17)])
@torch.no_grad()
def test_training_shows_the_estimator_the_beginning_of_the_mel_and_the_noisy_point(flows, causal, frames):
    flow = flows.tiny_flow(causal)
    batch = flows.training_batch(flow, [23, 7])
    draws, calls = draws_for(batch, prompt=(5, 0)), []
    flow.estimator.register_forward_pre_hook(lambda module, args: calls.append(args))
    flow(batch, draws)
    ((point, _, _, prompt, t, _),) = calls
    target = (batch.mel_BFM + 5.0) / 2.5
    torch.testing.assert_close(prompt[0, :frames], target[0, :frames])
    assert not prompt[0, frames:].any() and not prompt[1].any()
    t_B11 = draws.t_B[:, None, None]
    torch.testing.assert_close(point, (1 - (1 - 1e-6) * t_B11) * draws.noise_BFM + t_B11 * target)
    assert torch.equal(t, draws.t_B)


def test_draws_have_the_configured_rates_and_bounds(flows):
    flow = flows.tiny_flow()
    batch = flows.training_batch(flow, [20] * 4000)
    seeds = [flows.seeded(row) for row in range(4000)]
    draws = flow.draw(batch, seeds)
    prompt, first, later = draws.grid.prompt_B, draws.grid.first_B, draws.grid.later_B
    assert draws.keep_B.mean().item() == pytest.approx(0.8, abs=0.03)
    assert sorted(prompt.unique().tolist()) == list(range(7)) and (prompt > 0).float().mean().item() == pytest.approx(0.5 * 6 / 7, abs=0.03)
    assert (later.min().item(), later.max().item()) == (5, 20) and (first >= 1).all() and (first <= later).all()
    assert draws.t_B.mean().item() == pytest.approx(1 - 2 / math.pi, abs=0.02)
    again = flow.draw(flows.training_batch(flow, [20] * 2), [flows.seeded(7), flows.seeded(3999)])  # whatever rows are beside it
    assert torch.equal(draws.noise_BFM[[7, 3999]], again.noise_BFM) and torch.equal(first[[7, 3999]], again.grid.first_B)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("guidance", [0.0, 0.7])
def test_rows_of_a_batch_are_the_rows_alone(flows, causal, guidance):
    flow = flows.tiny_flow(causal)
    sampling = flows.SAMPLING.model_copy(update={"guidance": guidance})
    lens, prompts = [31, 1, 58, 12], [0, 9, 4, 0]
    tokens = [flows.tokens(n, n) for n in lens]
    voices = [flows.voice(flow, p, i) for i, p in enumerate(prompts)]
    together = flow.synthesize(tokens, voices, [flows.seeded(i) for i in range(4)], sampling)
    for i, mel in enumerate(together):
        (alone,) = flow.synthesize([tokens[i]], [voices[i]], [flows.seeded(i)], sampling)
        assert mel.shape == (num_mel_frames(lens[i], flow.cfg), 8)
        torch.testing.assert_close(mel, alone, rtol=1e-5, atol=1e-5 * alone.std().item())


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_guidance_is_the_formula_and_weight_zero_is_the_conditional_branch(flows, causal):
    """One Euler step: noise + velocity, so the velocity of each branch can be read off."""
    flow = flows.tiny_flow(causal)
    tokens, voice = flows.tokens(25), flows.voice(flow, 4)

    def run(weight):
        sampling = flows.SAMPLING.model_copy(update={"guidance": weight, "num_steps": 1})
        return flow.synthesize([tokens], [voice], [flows.seeded()], sampling)[0]

    calls = []
    handle = flow.estimator.register_forward_pre_hook(lambda module, args: calls.append(args))
    conditional = run(0.0)
    assert len(calls) == 1 and calls[0][0].shape[0] == 1
    x, mu, speaker, prompt, t, scope = calls[0]
    frames = conditional.shape[0]
    end = flow.restore(x + flow.estimator(*calls[0]))[0, -frames:]
    torch.testing.assert_close(conditional, end, rtol=1e-5, atol=1e-5)
    nothing = [torch.zeros_like(y) for y in (mu, speaker, prompt)]
    unconditional = flow.restore(x + flow.estimator(x, *nothing, t, scope))[0, -frames:]
    calls.clear()
    guided = run(0.7)
    assert len(calls) == 1 and calls[0][0].shape[0] == 2  # both branches in one batch
    handle.remove()
    torch.testing.assert_close(guided, 1.7 * conditional - 0.7 * unconditional, rtol=1e-4, atol=1e-4)
    assert (conditional - unconditional).abs().max() > 0.1


def test_a_spread_of_a_condition_that_nothing_trains_is_refused(flows):
    with pytest.raises(ValueError, match="condition_std needs a prior_weight above 0"):
        flows.tiny_config(condition_std=0.3)


@torch.no_grad()
def test_before_training_a_condition_with_a_spread_gives_mels_of_that_spread(flows):
    """The estimator adds nothing yet: what is drawn is normal around the condition; without noise it is the condition."""
    flow = Flow(flows.tiny_config(condition_std=0.3, prior_weight=1.0)).eval()
    tokens_T, voice = flows.tokens(200), flows.voice(flow)
    sampling = flows.SAMPLING.model_copy(update={"guidance": 0.0, "num_steps": 100})

    def mel(temperature, seed):
        drawn = flow.synthesize([tokens_T], [voice], [flows.seeded(seed)], sampling.model_copy(update={"temperature": temperature}))[0]
        return (drawn - flow.cfg.mel_mean) / flow.cfg.mel_std

    still = mel(0.0, 0)
    assert torch.equal(mel(0.0, 1), still)
    for temperature in (0.5, 1.0):
        scatter = torch.stack([mel(temperature, seed) - still for seed in range(4)])
        assert scatter.mean().abs() < 0.02 and scatter.std().item() == pytest.approx(0.3 * temperature, rel=0.1)


@pytest.mark.parametrize("causal", [True, False])
def test_everything_given_shows_in_the_mel(flows, causal):
    flow = flows.tiny_flow(causal)
    tokens, base = flows.tokens(20), flows.voice(flow, 6)

    def run(tokens=tokens, voice=base, seed=0):
        return flow.synthesize([tokens], [voice], [flows.seeded(seed)])[0]

    mel = run()
    assert torch.equal(mel, run())
    others = [
        run(tokens=torch.cat((flows.tokens(1, 9), tokens[1:]))),
        run(seed=1),
        run(voice=Voice(-base.speaker_S, base.prompt_tokens_T, base.prompt_mel_FM)),
        run(voice=Voice(base.speaker_S, base.prompt_tokens_T.flip(0), base.prompt_mel_FM)),
        run(voice=Voice(base.speaker_S, base.prompt_tokens_T, base.prompt_mel_FM + 1.0)),
    ]
    assert all((mel - other).abs().max() > 1e-3 for other in others)
    assert torch.isfinite(run(voice=Voice(torch.zeros(6)))).all()


def test_bad_input_is_named(flows):
    flow = flows.tiny_flow()
    voice, prompted = flows.voice(flow), flows.voice(flow, 5)
    for tokens, message in ((torch.tensor([3, -1]), "token -1 at place 1"), (torch.tensor([50]), "token 50 at place 0")):
        with pytest.raises(DataError, match=message):
            flow.synthesize([tokens], [voice], [flows.seeded()])
    with pytest.raises(DataError, match="without speech tokens"):
        flow.synthesize([flows.tokens(0)], [voice], [flows.seeded()])
    with pytest.raises(DataError, match="got 5 tokens and 9 frames, expected 10"):
        flow.prompt(Voice(prompted.speaker_S, prompted.prompt_tokens_T, prompted.prompt_mel_FM[1:]))
    with pytest.raises(DataError, match="got 5 tokens and 0 frames"):
        flow.prompt(Voice(prompted.speaker_S, prompted.prompt_tokens_T))
    batch = flows.training_batch(flow, [6, 3])
    wrong = FlowBatch(batch.tokens_BT, batch.token_lens_B, batch.mel_BFM, batch.mel_lens_B - 1, batch.speaker_BS)
    with pytest.raises(ValueError, match="fit_mel"):
        flow(wrong, draws_for(wrong))


@pytest.mark.parametrize("causal", [True, False])
def test_it_learns_a_code_of_tokens(flows, causal):
    """Every token has its own mel column: after some steps the synthesis of unseen orders is near it, that of the start is not."""
    torch.manual_seed(0)
    flow = Flow(flows.tiny_config(causal, sampling=flows.SAMPLING.model_copy(update={"num_steps": 6})))
    columns = torch.randn(50, 8, generator=flows.seeded(1)) * 2.5 - 5.0
    optimizer = torch.optim.Adam(flow.parameters(), lr=6e-3)
    generator = flows.seeded(2)

    def batch():
        tokens = torch.randint(8, (12, 10), generator=generator)
        frames = num_mel_frames(10, flow.cfg)
        place = (torch.arange(frames) * 10) // frames
        lens = torch.full((12,), 10)
        return FlowBatch(tokens, lens, columns[tokens[:, place]], torch.full((12,), frames), torch.zeros(12, 6))

    def error():
        data = batch()
        mel = flow.eval().synthesize(list(data.tokens_BT), [Voice(torch.zeros(6))] * 12, [flows.seeded(i) for i in range(12)])
        flow.train()
        return (torch.stack(mel) - data.mel_BFM).abs().mean().item()

    before = error()
    for _ in range(150):
        data = batch()
        total, count, _ = (x.sum() for x in flow(data, flow.draw(data, [generator] * 12)))
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    after = error()
    assert after < 0.6 * before, (before, after)
