-- Documents by what people did with them: the signals of each, the most clicked first.
select feature_id, signal, count(*) as events, count(distinct user_id) as people, avg(position) as mean_position
from interactions cross join unnest(interaction_type) as signals (signal)
group by feature_id, signal
order by events desc, feature_id, signal
limit 100
