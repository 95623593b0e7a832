-- What people ask next, within ten minutes, after a query of which they opened nothing.
with opened as (
  select distinct execution_id from interactions where list_contains(interaction_type, 'click')
), visits as (
  select searches.execution_id, session_id, query, timestamp,
         lead(query) over (partition by session_id order by timestamp, searches.execution_id) as next_query,
         lead(timestamp) over (partition by session_id order by timestamp, searches.execution_id) as next_at
  from searches
  where session_id is not null
)
select query, next_query, count(*) as times
from visits left join opened on visits.execution_id = opened.execution_id
where opened.execution_id is null and next_query <> query and next_at <= timestamp + interval 10 minutes
group by query, next_query
order by times desc, query, next_query
limit 100
