# ActiveRecord (the distribution's): a model, a transaction, an error it names, its statements prepared.
# `through`: idle in one thread, in a transaction in another, while the primary dies (see smoke.py).
require "active_record"
require "fileutils"

ActiveRecord::Base.establish_connection("#{ENV.fetch('DATABASE_URL')}?pool=5")

if ARGV[0] == "through"
  class Held < ActiveRecord::Base
    self.table_name = "held"
  end
  ready = ENV.fetch("READY")
  count = -> { Held.where(driver: "nobody").count.zero? or raise "count" }
  count.call
  idle = ActiveRecord::Base.connection.raw_connection
  busy = Thread.new do
    ActiveRecord::Base.transaction do
      Held.create!(driver: "activerecord, lost")
      FileUtils.touch("#{ready}/activerecord")
      sleep 0.05 until File.exist?("#{ready}/over")
      Held.first
    end
    "went on"
  rescue ActiveRecord::SerializationFailure
    ActiveRecord::Base.transaction { Held.create!(driver: "activerecord") }
    "told"
  end
  sleep 0.05 until File.exist?("#{ready}/over")
  count.call
  raise "it connected anew" unless ActiveRecord::Base.connection.raw_connection.equal?(idle)
  raise "the lost transaction #{busy.value}" unless busy.value == "told"
  exit
end

ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define { create_table(:active_users, force: true) { |table| table.string :name, index: { unique: true } } }
class ActiveUser < ActiveRecord::Base
end
ActiveUser.create!(name: "ada")
12.times { |number| ActiveUser.find_or_create_by!(name: "user #{number}") }
raise "count" unless ActiveUser.where("name like ?", "user %").count == 12
begin
  ActiveUser.transaction do
    ActiveUser.create!(name: "grace")
    ActiveUser.transaction(requires_new: true) { ActiveUser.create!(name: "ada") }
  end
  raise "no error"
rescue ActiveRecord::RecordNotUnique
  raise "not rolled back" if ActiveUser.exists?(name: "grace")
end
raise "order" unless ActiveUser.order(:name).in_batches(of: 5).sum(&:count) == 13
ActiveRecord::Schema.define { drop_table(:active_users) }
