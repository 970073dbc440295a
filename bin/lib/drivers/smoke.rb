# ruby-pg, what ActiveRecord speaks through: its settings at the start, prepared statements, a transaction, COPY, TLS.
# `through`: one connection is idle, one in a transaction, while the primary dies (see smoke.py).
require "fileutils"
require "pg"

if ARGV[0] == "through"
  idle = PG.connect(ENV.fetch("DATABASE_URL"))
  busy = PG.connect(ENV.fetch("DATABASE_URL"))
  idle.prepare("add", "select $1::int + 1")
  sum = -> { idle.exec_prepared("add", [1]).getvalue(0, 0) == "2" or raise "sum" }
  sum.call
  busy.exec("begin")
  busy.exec("insert into held (driver) values ('ruby pg, lost')")
  FileUtils.touch("#{ENV.fetch('READY')}/ruby")
  sleep 0.05 until File.exist?("#{ENV.fetch('READY')}/over")
  sum.call
  begin
    busy.exec("select 1")
    raise "the lost transaction went on"
  rescue PG::TRSerializationFailure
    busy.exec("rollback")
  end
  busy.exec("insert into held (driver) values ('ruby pg')")
  exit
end

[{ sslmode: "disable" }, { sslmode: "verify-full", sslrootcert: ENV.fetch("CA") }].each do |tls|
  db = PG.connect("#{ENV.fetch('DATABASE_URL')}?#{tls.map { |key, value| "#{key}=#{value}" }.join('&')}")
  db.exec("set client_min_messages to 'warning'")
  db.exec("set standard_conforming_strings = on")
  db.exec("set intervalstyle = iso_8601")
  db.exec("set session timezone to 'UTC'")
  db.prepare("a1", "select $1::int + 1")
  12.times { |number| raise "sum" unless db.exec_prepared("a1", [number]).getvalue(0, 0) == (number + 1).to_s }
  db.transaction do |inner|
    inner.exec("create temp table ruby_t (id int) on commit drop")
    inner.copy_data("copy ruby_t from stdin") { 100.times { |number| inner.put_copy_data("#{number}\n") } }
    raise "copy" unless inner.exec("select count(*) from ruby_t").getvalue(0, 0) == "100"
  end
  begin
    db.exec("select 1/0")
    raise "no error"
  rescue PG::DivisionByZero
    nil
  end
  raise "settings" unless db.exec("show intervalstyle").getvalue(0, 0) == "iso_8601"
  db.exec("deallocate a1")
  db.close
end
