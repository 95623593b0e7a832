-- Documents among the first three results that people pass over: shown above the last click of a search, not clicked.
with opened as (
  select distinct execution_id, feature_id
  from interactions
  where list_contains(interaction_type, 'click')
), lowest as (
  select searches.execution_id, max(array_position(results, feature_id)) as lowest
  from searches join opened on searches.execution_id = opened.execution_id
  where list_contains(results, feature_id)
  group by searches.execution_id
), examined as (
  select searches.execution_id, feature_id
  from searches
  join lowest on searches.execution_id = lowest.execution_id
  cross join unnest(results) as listed (feature_id)
  where array_position(results, feature_id) <= least(lowest, 3)
)
select examined.feature_id, count(*) as examined, count(*) filter (where opened.feature_id is null) as skipped
from examined left join opened
  on examined.execution_id = opened.execution_id and examined.feature_id = opened.feature_id
group by examined.feature_id
order by skipped desc, examined.feature_id
limit 100
