create table t (id integer primary key, name text, dep text, amount integer);
.mode csv
.import table t
.mode list
select dep, count(*), sum(amount), round(avg(amount), 3) from t group by dep order by 2 desc, 1;
create index by_name on t (name, amount desc);
select name, max(amount) from t where name like 'cor%' group by name order by 2 desc limit 5;
begin; update t set amount = amount * 2 where id % 7 = 0; select sum(amount) from t; rollback;
select sum(amount) from t;
with recursive f(a, b) as (select 0, 1 union all select b, a + b from f limit 60) select max(a) from f;
select name, row_number() over (order by amount desc, id) r from t order by r limit 4;
create table big as select a.id * 1000 + b.id as n, a.name || b.name as s from t a, t b where a.id < 150 and b.id < 150;
select count(*), sum(length(s)) from big; delete from big where n % 3; vacuum; select count(*) from big;
pragma integrity_check; select json_extract('{"a":[1,2]}', '$.a[1]'), printf('%05.1f', 2.25), hex(zeroblob(4)), sqlite_version() is not null;
.dump by_name
drop table big; pragma page_count > 10;
