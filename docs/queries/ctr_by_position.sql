-- CTR by position: how often a result is opened, of all results shown at its place of the list.
with lengths as (
  select retriever_id, array_length(results) as length, count(*) as searches
  from searches
  group by retriever_id, array_length(results)
), shown as (
  select retriever_id, position, sum(searches) as shown
  from lengths cross join unnest(range(0, 100)) as places (position)
  where position < length
  group by retriever_id, position
), opened as (
  select distinct execution_id, feature_id
  from interactions
  where list_contains(interaction_type, 'click') or list_contains(interaction_type, 'long_view')
     or list_contains(interaction_type, 'add_to_cart') or list_contains(interaction_type, 'purchase')
), clicked as (
  select retriever_id, array_position(results, feature_id) - 1 as position, count(*) as clicks
  from searches join opened on searches.execution_id = opened.execution_id
  where list_contains(results, feature_id)
  group by retriever_id, array_position(results, feature_id) - 1
)
select shown.retriever_id, shown.position, shown, coalesce(clicks, 0) as clicks, coalesce(clicks, 0) / shown as ctr
from shown left join clicked
  on shown.retriever_id = clicked.retriever_id and shown.position = clicked.position
order by shown.retriever_id, shown.position
