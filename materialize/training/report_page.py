"""The page of an evaluation, as a Jinja template: no script, no font, no file of its own."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model {{ model_id }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
  h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
  td.number, th.number { font-variant-numeric: tabular-nums; text-align: right; }
  tr.model td { font-weight: 600; } small { color: #666; font-weight: 400; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem; }
  figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
</style>
</head>
<body>
<h1>Model {{ model_id }}: how well it ranks</h1>
<p>Measured from {{ window.start[:10] }} to {{ window.end[:10] }}, which training has not seen: every one of
{{ "{:,}".format(window.candidates) }} candidates ranked for each of {{ "{:,}".format(window.users) }} users with an event
({{ "{:,}".format(window.positives) }} pairs; {{ "%.0f" | format(window.repeat_share * 100) }} % of them the user had before).</p>
<ul>{% for sentence in verdicts %}<li>{{ sentence }}</li>{% endfor %}</ul>

{% macro quality(parts) %}
<table>
<tr><th>method</th>{% for measure in measures %}<th class="number">{{ measure }}</th>{% endfor %}</tr>
{% for name in names %}{% set found = parts[name] %}
<tr{% if name == "model" %} class="model"{% endif %}><td title="{{ meaning.get(name, "") }}">{{ name }}</td>
{% for measure in measures %}<td class="number">{{ "%.4f" | format(found[measure]) }}{% if measure in found.intervals %}<br>
<small>{{ "%.4f" | format(found.intervals[measure][0]) }} – {{ "%.4f" | format(found.intervals[measure][1]) }}</small>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</table>
{% endmacro %}

<h2>As served</h2>
{{ quality(methods) }}
<p>NDCG and recall: higher is better, 1 is a perfect list. Hit rate: users with at least one hit among ten. Coverage: share of the
candidates in anybody's first ten. Novelty: bits; what half of all users have had counts 1, what one in a thousand has had counts 10.
In small print the 95 % interval over users.</p>

{% set new = dict() %}{% for name in names %}{% set _ = new.update({name: methods[name].new_items}) %}{% endfor %}
<h2>Items new to the user</h2>
<p>Lists without what the user has had: {{ "{:,}".format(methods.model.new_items.users) }} users found something new in the window.</p>
{{ quality(new) }}

<h2>By segment, NDCG@10</h2>
<table>
<tr><th>method</th>{% for segment in segments %}<th class="number">{{ segment }} users<br>
<small>{{ "{:,}".format(methods.model.segments[segment].users) }}</small></th>{% endfor %}
<th class="number">fresh items<br><small>{{ "{:,}".format(methods.model.fresh_items.users) }} users</small></th></tr>
{% for name in names %}
<tr{% if name == "model" %} class="model"{% endif %}><td>{{ name }}</td>
{% for segment in segments %}<td class="number">{{ "%.4f" | format(methods[name].segments[segment]["ndcg@10"]) }}</td>{% endfor %}
<td class="number">{{ "%.4f" | format(methods[name].fresh_items["ndcg@10"]) }}</td></tr>
{% endfor %}
</table>
<p>New users have no event before the window, light ones at most the median number, heavy ones more. Fresh items are those that nobody
had more than 28 days before the window.</p>

<h2>Plots</h2>
<div class="plots">
<figure><figcaption>As served</figcaption>{{ all_items }}</figure>
<figure><figcaption>Items new to the user</figcaption>{{ new_items }}</figure>
{% if calibration %}<figure><figcaption>Calibration of listed pairs</figcaption>{{ calibration }}</figure>{% endif %}
{% if distribution %}<figure><figcaption>Scores of listed pairs</figcaption>{{ distribution }}</figure>{% endif %}
{% if training %}<figure><figcaption>Gain per scope</figcaption>{{ gains }}</figure>
<figure><figcaption>Gain per feature</figcaption>{{ features }}</figure>
<figure><figcaption>Learning curve</figcaption>{{ curve }}</figure>{% endif %}
</div>

{% if validation %}
<h2>What several windows say</h2>
<p>What is published was chosen by these windows together, each ranked by a forest that has not seen it, so one unusual month does not
decide; the last of them is the one above. NDCG@10, the best of each column in bold.</p>
<table>
<tr><th>method</th>{% for window in validation %}<th class="number">from {{ window.start[:10] }}, as served<br>
<small>{{ "{:,}".format(window.users) }} users</small></th><th class="number">new items</th>{% endfor %}</tr>
{% for name in validation[0].served %}
<tr{% if name == "model" %} class="model"{% endif %}><td title="{{ meaning.get(name, "") }}">{{ "forest" if name == "model" else name }}</td>
{% for window in validation %}{% for part in ("served", "new_items") %}{% set best = window[part].values() | max %}
<td class="number">{% if window[part][name] == best %}<b>{{ "%.4f" | format(best) }}</b>{% else %}{{ "%.4f" | format(window[part][name]) }}{% endif %}</td>
{% endfor %}{% endfor %}</tr>
{% endfor %}
</table>
<ul>{% for choice in choices if choice.name in ("lift", "stand_in", "new_items") %}<li>{{ decided[choice.name] }}: {{ choice.value }}
({{ choice.reason }})</li>{% endfor %}</ul>
{% endif %}

{% if training %}
<h2>How it was trained</h2>
<p>{{ "{:,}".format(training.rows) }} pairs, {{ "{:,}".format(training.positives) }} of them positive, from
{{ training.windows[0][0][:10] }} to {{ training.windows[-1][1][:10] }}; {{ training.rounds }} rounds.</p>
{% if choices %}<ul>{% for choice in choices %}<li>{{ choice.name }}: {{ choice.value }} ({{ choice.reason }})</li>{% endfor %}</ul>{% endif %}
{% endif %}
</body>
</html>
"""
