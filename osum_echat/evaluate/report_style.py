"""The style sheet of report.html, inlined so that the page needs nothing but itself; follows the reader's light or dark setting."""

CSS = """
:root{color-scheme:light dark;
--bg:#f6f7f9;--card:#fff;--ink:#1d2430;--dim:#667085;--line:#e3e7ee;--accent:#2563eb;--good:#15803d;--bad:#c2410c;
--good-bg:#dcfce7;--bad-bg:#ffedd5;--heat:37,99,235}
@media(prefers-color-scheme:dark){:root{--bg:#0f141b;--card:#171e28;--ink:#e6eaf0;--dim:#93a0b4;--line:#2a3442;--accent:#7aa7ff;
--good:#4ade80;--bad:#fdba74;--good-bg:#12301f;--bad-bg:#3a2413;--heat:96,150,255}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC",sans-serif}
main,header{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{margin:0;font-size:26px}
h2{font-size:19px;margin:34px 0 12px}
h3{font-size:15px;margin:18px 0 8px}
.dim{color:var(--dim)}
nav{position:sticky;top:0;background:var(--bg);padding:8px 0;border-bottom:1px solid var(--line);z-index:1}
nav a{color:var(--accent);text-decoration:none;margin-right:16px;font-size:14px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:12px}
.card,figure,table.box,details{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:12px 14px}
.card b{display:block;font-size:24px;line-height:1.25}
.card>span{color:var(--dim);font-size:13px}
.range{position:relative;height:6px;background:var(--line);border-radius:3px;margin:8px 0 4px}
.range i{position:absolute;top:0;height:6px;border-radius:3px;background:var(--accent);opacity:.35}
.range u{position:absolute;top:-3px;width:2px;height:12px;background:var(--accent)}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:14px}
figure{margin:0;padding:10px 12px}
figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
svg.chart{width:100%;height:auto;display:block}
svg.chart text{fill:var(--dim);font-size:11px}
svg.chart .grid{stroke:var(--line)}
svg.chart polyline{fill:none;stroke-width:1.7;stroke-linejoin:round}
.s0{stroke:#3b82f6}.s1{stroke:#f59e0b}.s2{stroke:#10b981}.s3{stroke:#ef4444}.s4{stroke:#a855f7}.s5{stroke:#14b8a6}
.legend span{font-size:12px;color:var(--dim);margin-right:12px}
.legend span::before{content:"";display:inline-block;width:10px;height:3px;margin-right:5px;vertical-align:middle}
.k0::before{background:#3b82f6}.k1::before{background:#f59e0b}.k2::before{background:#10b981}.k3::before{background:#ef4444}
.k4::before{background:#a855f7}.k5::before{background:#14b8a6}
table{border-collapse:collapse;font-size:14px}
table.box{border-collapse:separate;border-spacing:0;overflow:hidden;width:100%}
th,td{padding:5px 9px;text-align:left;vertical-align:top}
table.box tr+tr td,table.box tr+tr th{border-top:1px solid var(--line)}
th{color:var(--dim);font-weight:600;font-size:13px}
td.n{text-align:right;font-variant-numeric:tabular-nums}
table.heat td{text-align:center;min-width:50px;border-radius:4px;font-variant-numeric:tabular-nums}
table.heat td small{display:block;opacity:.75;font-size:11px}
.scroll{overflow-x:auto}
.bar{display:flex;height:16px;border-radius:4px;overflow:hidden;min-width:160px}
.bar i{display:block;height:100%;background:var(--accent)}
.bar i:nth-child(2n){opacity:.6}.bar i:nth-child(3n){opacity:.35}
.chip{display:inline-block;padding:1px 8px;margin:2px 4px 2px 0;border-radius:10px;font-size:12.5px;background:var(--line)}
.chip.ok{background:var(--good-bg);color:var(--good)}.chip.no{background:var(--bad-bg);color:var(--bad)}
.sample{display:grid;grid-template-columns:250px 1fr;gap:6px 16px;padding:12px 14px}
.sample+.sample{margin-top:10px}
.sample audio{width:240px;height:34px}
.sample code{font-size:12px;color:var(--dim);word-break:break-all}
.words{font-size:15px;margin-bottom:2px}
.words span{white-space:nowrap}
.sub{color:var(--bad);background:var(--bad-bg);border-radius:3px;padding:0 2px}
.del{color:var(--bad);text-decoration:line-through}
.ins{color:var(--bad);text-decoration:underline dotted}
.card b small{font-size:14px;font-weight:400;color:var(--dim)}
.card.said{padding:12px 14px}
.card.said+.card.said{margin-top:10px}
.said table{margin:6px 0}
.said th{width:60px}
.sounds{display:flex;flex-wrap:wrap;gap:10px}
.sounds figure{max-width:100%;padding:8px 10px}
.sounds img{display:block;border-radius:4px;margin-bottom:6px}
.sounds audio{width:240px;height:34px}
.spans{display:flex;align-items:center;gap:10px;margin:6px 0}
.spans>span{width:32px;color:var(--dim);font-size:13px}
.spans>div{display:flex;flex:1;height:24px;border-radius:5px;overflow:hidden}
.spans i{font:12px/24px system-ui,sans-serif;color:#0b1220;text-align:center;overflow:hidden;min-width:2px}
.b0{background:#3b82f6}.b1{background:#f59e0b}.b2{background:#10b981}.b3{background:#ef4444}
.cards+figure{margin:12px 0}
details{padding:8px 14px;margin-top:10px}
summary{cursor:pointer}
pre{white-space:pre-wrap;word-break:break-word;font-size:12.5px;margin:6px 0}
.warn{background:var(--bad-bg);color:var(--bad);padding:8px 12px;border-radius:8px;margin:8px 0}
footer{color:var(--dim);font-size:13px;padding:30px 0}
@media(max-width:700px){.sample{grid-template-columns:1fr}}
@media print{nav{display:none}}
"""
