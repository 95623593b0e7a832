-- Each day: searches with results, those of which nothing was opened, and the median time to the first click.
with first_clicks as (
  select execution_id, min(timestamp) as first_at
  from interactions
  where list_contains(interaction_type, 'click')
  group by execution_id
)
select searches.event_date, count(*) as searches,
       count(*) filter (where first_at is null) as abandoned,
       count(*) filter (where first_at is null) / count(*) as abandonment,
       median(date_diff('second', date_trunc('second', searches.timestamp), date_trunc('second', first_at)))
         as seconds_to_first_click
from searches left join first_clicks on searches.execution_id = first_clicks.execution_id
where array_length(results) > 0
group by searches.event_date
order by searches.event_date
