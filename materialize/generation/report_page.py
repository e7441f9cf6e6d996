"""The page of a generation's report, as a Jinja template: no script, no font, no file of its own."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Generation {{ generation.id }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
  h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
  th.number { text-align: right; }
  td.number { font-variant-numeric: tabular-nums; text-align: right; }
  .passed { color: #1a7f37; } .failed { color: #b3261e; font-weight: 600; } .overridden { color: #9a6700; }
  .plots { margin-top: 2rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
  figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
</style>
</head>
<body>
<h1>Generation {{ generation.id }}: {{ "rejected" if generation.state == "rejected" else "passed its gates" }}</h1>
{% if generation.reason %}<p class="failed">{{ generation.reason }}</p>{% endif %}
<p>Model {{ generation.model }} ({{ generation.model_id }}), features as of {{ generation.feature_cutoff.isoformat() }},
{{ "{:,}".format(generation.users) }} users planned, {{ "{:,}".format(generation.items) }} items, lists of {{ generation.k }}.
{% if changed is not none %}A delta on {{ generation.parent }}: {{ "{:,}".format(changed) }} lists changed, {{ "{:,}".format(gone) }} removed.
The plots of scores and of change are of the changed lists; the gates are of all. {% endif %}{% if live %}Compared with {{ live.id }}, which was live.{% else %}The first generation: there was none to compare with.{% endif %}</p>

<h2>Gates</h2>
<table>
<tr><th>gate</th><th class="number">measured</th><th>allowed</th><th>verdict</th><th></th></tr>
{% for gate in gates %}
<tr><td>{{ gate.gate }}</td><td class="number">{{ "" if gate.measured is none else "%.4g" | format(gate.measured) }}</td><td>{{ gate.allowed }}</td>
<td class="{{ gate.verdict }}">{{ gate.verdict }}</td><td>{{ gate.reason }}</td></tr>
{% endfor %}
</table>

<div class="plots">
<figure><figcaption>Scores</figcaption>{{ scores }}</figure>
{% if churn %}<figure><figcaption>Change of lists</figcaption>{{ churn }}</figure>{% endif %}
<figure><figcaption>Coverage</figcaption>{{ coverage }}</figure>
<figure><figcaption>Concentration</figcaption>{{ popularity }}</figure>
{% if quality %}<figure><figcaption>Ranking quality</figcaption>{{ quality }}</figure>{% endif %}
</div>

<h2>Commonest items</h2>
<table>
<tr><th>item</th><th></th><th class="number">in the first ten of</th></tr>
{% for item in top_items %}
<tr><td>{{ item.item_id }}</td><td>{{ item.title }}</td><td class="number">{{ "%.1f" | format(item.share * 100) }} % of users</td></tr>
{% endfor %}
</table>
</body>
</html>
"""
