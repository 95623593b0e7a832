-- Queries that find nothing, the most frequent first.
select query, count(*) as searches, count(*) filter (where array_length(results) = 0) as without_results,
       count(distinct session_id) as sessions, max(timestamp) as last_at
from searches
group by query
having count(*) filter (where array_length(results) = 0) > 0
order by without_results desc, query
limit 100
